//! What all partitions of a controller have in common: the shared parameters that are in use, and
//! where controllers are found.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::policy::millis;
use super::{NodeConfig, Parameters, PartitionConfig};
use crate::limits::{ALTERNATES_MAX, PARAMETERS_MAX};
use crate::model::{ControllerId, Record, kind};
use crate::shard::input::Settings;
use crate::wire::Place;
use crate::wire::client::Terms;

/// The key of the record that holds the parameters.
pub(super) const KEY: &[u8] = b"parameters";
/// The file with the parameters that were used last.
const USED: &str = "parameters-in-use";

/// See the module.
pub(super) struct Environment {
    /// Rank and body of the record that was looked at last, whatever became of it.
    seen: (Vec<u8>, Vec<u8>),
    generation: u64,
    text: String,
    parameters: Parameters,
    refused: Option<(u64, String)>,
    places: BTreeMap<ControllerId, Place>,
}

/// What became of a record with parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// They are in use.
    Used(u64),
    /// They are not.
    Refused(u64, String),
    /// They were known.
    Known,
}

impl Environment {
    /// As the configuration says: generation 0.
    pub(super) fn new(config: &NodeConfig) -> Result<Self, String> {
        let places = config.known.iter().map(|place| (place.controller.clone(), place.clone()));
        let parameters = Parameters::parse(&config.parameters)?;
        let environment = Self {
            seen: Default::default(),
            generation: 0,
            text: config.parameters.clone(),
            parameters,
            refused: None,
            places: places.collect(),
        };
        environment.all_settings(config, &environment.parameters)?;
        Ok(environment)
    }

    /// Uses what was used before the controller was stopped, as what is in the table may be
    /// something newer that was refused.
    pub(super) fn recall(&mut self, config: &NodeConfig, folder: &Path) {
        let Ok(read) = fs::read_to_string(folder.join(USED)) else { return };
        let used = read.split_once('\n').and_then(|(generation, text)| {
            let parameters = Parameters::parse(text).ok()?;
            self.all_settings(config, &parameters).ok()?;
            Some((generation.parse().ok()?, text, parameters))
        });
        match used {
            Some((generation, text, parameters)) => {
                (self.generation, self.parameters) = (generation, parameters);
                text.clone_into(&mut self.text);
            }
            None => log::warn!("the parameters that were in use before cannot be used any more"),
        }
    }

    /// Looks at the record with the parameters: all of it is used, or nothing.
    pub(super) fn apply(&mut self, config: &NodeConfig, record: &Record) -> Applied {
        let is_known = (&record.rank, &record.body) <= (&self.seen.0, &self.seen.1);
        let Some((generation, _)) = record.rank.split_first_chunk::<8>() else {
            return Applied::Known;
        };
        let generation = u64::from_be_bytes(*generation);
        if is_known || record.kind != kind::PARAMETERS || record.key != KEY {
            return Applied::Known;
        }
        self.seen = (record.rank.clone(), record.body.clone());
        match self.read(config, &record.body) {
            Ok((text, parameters)) => {
                (self.generation, self.text, self.parameters) = (generation, text, parameters);
                self.refused = None;
                Applied::Used(generation)
            }
            Err(error) => {
                self.refused = Some((generation, error.clone()));
                Applied::Refused(generation, error)
            }
        }
    }

    fn read(&self, config: &NodeConfig, body: &[u8]) -> Result<(String, Parameters), String> {
        let text = str::from_utf8(body).map_err(|_| "they are no text".to_owned())?;
        self.check(config, text).map(|parameters| (text.to_owned(), parameters))
    }

    /// Whether these parameters could be used by all partitions.
    pub(super) fn check(&self, config: &NodeConfig, text: &str) -> Result<Parameters, String> {
        if text.len() > PARAMETERS_MAX {
            return Err(format!("{} bytes are more than {PARAMETERS_MAX}", text.len()));
        }
        let parameters = Parameters::parse(text)?;
        self.all_settings(config, &parameters)?;
        Ok(parameters)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn refused(&self) -> Option<&(u64, String)> {
        self.refused.as_ref()
    }

    /// A controller says where its door is; true if that is news.
    pub(super) fn place(&mut self, place: Place) -> bool {
        let is_news = self.places.get(&place.controller) != Some(&place);
        self.places.insert(place.controller.clone(), place);
        is_news
    }

    /// What a partition is to do.
    pub(super) fn settings(&self, config: &NodeConfig, partition: &ControllerId) -> Settings {
        self.settings_with(config, partition, &self.parameters).unwrap_or_else(|error| {
            // They were checked before they were taken.
            log::error!("partition {partition}: {error}");
            self.settings_with_none(config, partition)
        })
    }

    fn settings_with_none(&self, config: &NodeConfig, partition: &ControllerId) -> Settings {
        let policy = special(config, partition).map_or(&config.policy, |special| &special.policy);
        self.of_policy(config, partition, policy)
    }

    fn all_settings(&self, config: &NodeConfig, parameters: &Parameters) -> Result<(), String> {
        config.partition_names().iter().try_for_each(|partition| {
            self.settings_with(config, partition, parameters)
                .map(drop)
                .map_err(|error| format!("partition {partition}: {error}"))
        })
    }

    fn settings_with(
        &self,
        config: &NodeConfig,
        partition: &ControllerId,
        parameters: &Parameters,
    ) -> Result<Settings, String> {
        let usual = special(config, partition).map_or(&config.policy, |special| &special.policy);
        Ok(self.of_policy(config, partition, &parameters.over(usual)?))
    }

    fn of_policy(
        &self,
        config: &NodeConfig,
        partition: &ControllerId,
        policy: &super::Policy,
    ) -> Settings {
        let alternates = alternates(config, partition);
        let known = |name: &ControllerId| self.places.get(name).cloned();
        let alternates: Vec<_> = alternates.iter().filter_map(known).take(ALTERNATES_MAX).collect();
        let others = self
            .places
            .values()
            .filter(|place| !alternates.iter().any(|other| other.controller == place.controller));
        let places = alternates.iter().chain(others).cloned().collect();
        Settings {
            terms: Terms {
                lease: policy.lease,
                handshake_every: policy.handshake,
                misses: policy.misses,
                generation: self.generation,
                alternates,
            },
            places,
            fail_back: policy.fail_back,
            pace: policy.pace,
            keep_ends: millis(policy.keep_ends),
            snapshot_from: policy.snapshot_from,
            devices_max: policy.devices_max,
            requests_max: policy.requests_max,
        }
    }
}

/// Keeps what is in use for [`Environment::recall`]. Blocks until it is on disk.
pub(super) fn keep(folder: &Path, generation: u64, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = folder.join("parameters-in-use.new");
    let mut file = fs::File::create(&new)?;
    write!(file, "{generation}\n{text}")?;
    file.sync_all()?;
    fs::rename(new, folder.join(USED))?;
    fs::File::open(folder)?.sync_all()
}

/// The record of parameters that a controller makes.
pub(super) fn record(generation: u64, me: &ControllerId, text: &str) -> Record {
    let mut rank = generation.to_be_bytes().to_vec();
    rank.extend(me.as_str().as_bytes());
    let (key, body) = (KEY.to_vec(), text.as_bytes().to_vec());
    Record { kind: kind::PARAMETERS, key, rank, body }
}

/// The generation that a record says it has.
pub(super) fn generation_of(record: &Record) -> u64 {
    record.rank.first_chunk::<8>().map_or(0, |generation| u64::from_be_bytes(*generation))
}

pub(super) fn special<'a>(
    config: &'a NodeConfig,
    partition: &ControllerId,
) -> Option<&'a PartitionConfig> {
    config.partitions.iter().find(|special| special.name == *partition)
}

/// Where devices of a partition may go besides.
fn alternates(config: &NodeConfig, partition: &ControllerId) -> Vec<ControllerId> {
    if let Some(special) = special(config, partition)
        && !special.alternates.is_empty()
    {
        return special.alternates.iter().filter(|name| **name != config.me).cloned().collect();
    }
    let home = std::iter::once(partition).filter(|home| **home != config.me);
    let partners = config.partners.iter().map(|partner| &partner.id);
    home.chain(partners.filter(|partner| *partner != partition)).cloned().collect()
}
