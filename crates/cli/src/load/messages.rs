//! How long messages are: sizes or ranges of sizes, each with a weight.

use crate::demo::content::Random;
use crate::units;

/// Longer ones say nothing new and only take turns from others.
pub(super) const MESSAGE_BYTES_MAX: u64 = 64 << 20;
const PARTS_MAX: usize = 64;
const WEIGHT_MAX: u64 = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    least: u64,
    most: u64,
    weight: u64,
}

/// What lengths there are, and how often each is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    parts: Vec<Part>,
    weights: u64,
}

/// Reads `SIZE`, `MIN-MAX`, or several of these with weights: `64:90,1KiB-16KiB:9,1MiB:1`.
pub(super) fn mix(text: &str) -> Result<Mix, String> {
    let parts: Vec<Part> = text.split(',').map(part).collect::<Result<_, _>>()?;
    if parts.len() > PARTS_MAX {
        return Err(format!("at most {PARTS_MAX} sizes"));
    }
    let weights = parts.iter().map(|part| part.weight).sum();
    Ok(Mix { parts, weights })
}

fn part(text: &str) -> Result<Part, String> {
    let (sizes, weight) = match text.rsplit_once(':') {
        None => (text, 1),
        Some((sizes, weight)) => {
            let read = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
            let wrong = || format!("{text}: a weight is a number from 1 to {WEIGHT_MAX}");
            (sizes, read.ok_or_else(wrong)?)
        }
    };
    let size = |size: &str| {
        let bytes = units::size(size).map_err(|what| format!("{text}: {what}"))?;
        if !(1..=MESSAGE_BYTES_MAX).contains(&bytes) {
            return Err(format!("{text}: a message has 1 byte to 64MiB"));
        }
        Ok(bytes)
    };
    let (least, most) = match sizes.split_once('-') {
        Some((least, most)) => (size(least)?, size(most)?),
        None => (size(sizes)?, size(sizes)?),
    };
    if least > most {
        return Err(format!("{text}: the first of two sizes is the smaller one"));
    }
    Ok(Part { least, most, weight })
}

impl Mix {
    /// The length of the next message.
    pub(super) fn draw(&self, random: &mut Random) -> u64 {
        let mut ticket = random.below(self.weights.max(1));
        for part in &self.parts {
            if ticket < part.weight {
                return part.least + random.below(part.most - part.least + 1);
            }
            ticket -= part.weight;
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_ranges_and_weights_are_read_and_drawn_from() {
        let mix = mix("64:3,1KiB-2KiB").unwrap();
        let mut random = Random::new(1);
        let (mut small, mut large) = (0, 0);
        for _ in 0..1000 {
            match mix.draw(&mut random) {
                64 => small += 1,
                1024..=2048 => large += 1,
                other => panic!("{other}"),
            }
        }
        assert!((650..850).contains(&small) && small + large == 1000, "{small}");
        assert_eq!(super::mix("5").unwrap().draw(&mut random), 5);
    }

    #[test]
    fn sizes_that_make_no_sense_are_told() {
        for wrong in ["", "0", "64-", "2-1", "1:0", "1:x", "65MiB", "1,,2", "1:9999999", "x"] {
            assert!(mix(wrong).is_err(), "{wrong}");
        }
        assert!(mix(&["1"; PARTS_MAX].join(",")).is_ok());
        assert!(mix(&["1"; PARTS_MAX + 1].join(",")).is_err());
    }
}
