//! The models over the engine's files, and over the same files with a bug.

use loom::model::Builder;

use crate::{Plant, as_written, half, relaxed};

/// Tries `model` in every interleaving with so many preemptions; `LOOM_MAX_PREEMPTIONS` says
/// otherwise.
fn try_all(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

mod table {
    use super::*;

    #[test]
    fn a_call_finds_its_socket_or_none_while_the_number_is_closed() {
        try_all(3, as_written::table::find_and_close);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_slot_whose_lock_orders_nothing_is_freed_under_a_reader() {
        try_all(3, relaxed::table::find_and_close);
    }

    #[test]
    fn a_number_given_anew_keeps_its_new_socket_when_the_old_one_is_taken_out() {
        try_all(3, as_written::table::replace_and_take_the_old_one);
        try_all(3, as_written::table::find_and_replace);
    }

    #[test]
    fn two_that_make_a_part_of_the_table_agree_on_one() {
        try_all(3, as_written::table::make_a_part_of_the_table);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_part_of_the_table_that_is_published_without_order_is_seen_unmade() {
        try_all(3, relaxed::table::make_a_part_of_the_table);
    }
}

mod waits {
    use super::*;

    #[test]
    fn nobody_sleeps_on_what_has_happened() {
        try_all(3, || as_written::waits::sleep_and_change(Plant::Nothing));
        try_all(3, as_written::waits::two_sleep);
        try_all(3, as_written::waits::sleep_while_two_change);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn who_looks_before_it_lists_its_bell_sleeps_on() {
        try_all(3, || as_written::waits::sleep_and_change(Plant::LooksFirst));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_one_order_of_all_a_sleeper_and_who_changes_miss_each_other() {
        try_all(3, || half::waits::sleep_and_change(Plant::Nothing));
    }

    #[test]
    fn one_reads_for_all_and_hands_the_role_on() {
        try_all(3, || as_written::waits::lead_and_follow(Plant::Nothing));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_follower_that_looks_first_follows_nobody_for_ever() {
        try_all(3, || as_written::waits::lead_and_follow(Plant::LooksFirst));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_role_that_orders_nothing_is_had_by_two() {
        try_all(3, || relaxed::waits::lead_and_follow(Plant::Nothing));
    }

    #[test]
    fn a_leader_that_looks_does_not_sleep_on_bytes_that_were_read_ahead() {
        try_all(3, || as_written::waits::look_and_read_ahead(Plant::Nothing));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_leader_that_does_not_wait_for_who_reads_sleeps_on() {
        try_all(3, || as_written::waits::look_and_read_ahead(Plant::PassesBy));
    }
}

mod room {
    use super::*;

    #[test]
    fn a_writer_that_runs_out_of_room_sees_the_credit_that_came_or_is_told() {
        try_all(3, || as_written::room::run_out_and_learn(Plant::Nothing));
        try_all(3, as_written::room::run_out_twice_and_wait);
    }

    #[test]
    #[should_panic(expected = "there is room, and nobody will say so")]
    fn a_writer_that_does_not_look_again_is_left_without_room() {
        try_all(3, || as_written::room::run_out_and_learn(Plant::LooksNoMore));
    }

    #[test]
    #[should_panic(expected = "there is room, and nobody will say so")]
    fn without_one_order_of_all_credit_and_no_room_miss_each_other() {
        try_all(3, || half::room::run_out_and_learn(Plant::Nothing));
    }
}

mod acks {
    use super::*;

    /// The wish was taken away by a store, which sees nothing of what came before the wish: in the
    /// language's model a second ACK could be lost with it (on no machine that we build for).
    #[test]
    fn an_ack_wanted_while_the_lock_was_taken_is_sent_by_its_holder() {
        try_all(3, || as_written::acks::read_and_write(Plant::Nothing));
    }

    #[test]
    #[should_panic(expected = "the peer was not told all")]
    fn an_ack_is_lost_when_a_holder_leaves_without_a_look() {
        try_all(3, || as_written::acks::read_and_write(Plant::LeavesWithout));
    }

    #[test]
    #[should_panic(expected = "the peer was not told all")]
    fn an_ack_is_lost_without_one_order_of_all() {
        try_all(3, || half::acks::read_and_write(Plant::Nothing));
    }
}

mod swap {
    use super::*;

    #[test]
    fn a_byte_is_counted_to_its_own_epoch_and_a_swap_ends_every_sleep() {
        try_all(3, || as_written::swap::read_and_swap(false, Plant::Nothing));
        try_all(3, || as_written::swap::read_and_swap(true, Plant::Nothing));
    }

    #[test]
    #[should_panic(expected = "a byte is counted to another epoch")]
    fn a_swap_that_waits_for_no_reader_mixes_epochs() {
        try_all(3, || as_written::swap::read_and_swap(true, Plant::WaitsForNobody));
    }

    #[test]
    #[should_panic(expected = "the epoch has changed under a reader")]
    fn a_reader_that_leads_without_the_lock_takes_an_old_epoch_along() {
        try_all(3, || as_written::swap::read_and_swap(false, Plant::LeadsUnlocked));
    }

    #[test]
    fn what_a_disowned_reader_brings_counts_for_nothing() {
        try_all(3, || as_written::swap::disown(Plant::Nothing));
    }

    #[test]
    #[should_panic(expected = "a byte is counted to another epoch")]
    fn a_disowned_reader_that_counted_would_be_found() {
        try_all(3, || as_written::swap::disown(Plant::CountsAnyway));
    }

    #[test]
    #[should_panic(expected = "a byte is counted to another epoch")]
    fn a_role_taken_after_a_disowned_reader_would_be_found() {
        try_all(3, || as_written::swap::disown(Plant::ReadsWhereNothingIs));
    }
}
