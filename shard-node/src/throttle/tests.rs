//! What is let through, and what is not.

use super::*;
use crate::capacity::{read_units, write_units};
use crate::item::Type;
use crate::table::{Index, KeyAttribute, OnDemand, Projection};

const NODE_ALONE: Options = Options { provisioned: false, read_units: None, write_units: None };

fn key(name: &str) -> KeyAttribute {
    KeyAttribute { name: name.to_owned(), kind: Type::S }
}

fn table(on_demand: OnDemand) -> Table {
    let mut table = Table { id: 7, on_demand, ..Table::new("orders".to_owned(), key("id"), None) };
    for (number, local, name) in [(1, true, "by-day"), (2, false, "by-buyer")] {
        table.indexes.push(Index {
            name: name.to_owned(),
            number,
            local,
            partition_key: key("id"),
            sort_key: None,
            projection: Projection::All,
            status: IndexStatus::Active,
            filled_below: None,
            throughput: None,
            on_demand: OnDemand::default(),
        });
    }
    table
}

fn knowing(options: Options, table: &Table) -> Throttle {
    let throttle = Throttle::new(options);
    throttle.heard(&Tables::from_iter([table.clone()]));
    throttle
}

fn refused(outcome: Result<(), Error>) -> Throttled {
    match outcome.unwrap_err() {
        Error::Throttled(throttled) => *throttled,
        other => panic!("{other}"),
    }
}

#[test]
fn what_cost_more_than_there_is_is_waited_for() {
    let table = table(OnDemand { reads: None, writes: Some(10) });
    let throttle = knowing(NODE_ALONE, &table);
    throttle.admit(&table, Use::WRITE, 0).unwrap();
    throttle.charge(&table, Asked::Write, &Consumed::table(write_units(400 << 10)), 0);
    let throttled = refused(throttle.admit(&table, Use::WRITE, 1_000));
    assert_eq!(throttled.reason(), "TableWriteMaxOnDemandThroughputExceeded");
    assert_eq!((throttled.max, throttled.index), (10, None));
    // 400 units, of which 10 were there: 39 seconds.
    throttle.admit(&table, Use::WRITE, 38_900).unwrap_err();
    throttle.admit(&table, Use::WRITE, 39_100).unwrap();
    // Reads are something else.
    throttle.admit(&table, Use::read(None), 1_000).unwrap();
}

#[test]
fn what_a_global_index_may_be_asked_counts_for_writes_and_for_its_own_reads() {
    let mut table = table(OnDemand::default());
    table.indexes[1].on_demand = OnDemand { reads: Some(5), writes: Some(5) };
    let throttle = knowing(NODE_ALONE, &table);
    let touched = Consumed { table: 1.0, indexes: [(1, 1.0), (2, 20.0)].into() };
    throttle.charge(&table, Asked::Write, &touched, 0);
    let throttled = refused(throttle.admit(&table, Use::WRITE, 0));
    assert_eq!(throttled.reason(), "IndexWriteMaxOnDemandThroughputExceeded");
    assert_eq!(throttled.index.as_deref(), Some("by-buyer"));
    throttle.charge(&table, Asked::Read, &Consumed::read(Some(2), 100 << 10, false), 0);
    throttle.admit(&table, Use::read(None), 0).unwrap();
    throttle.admit(&table, Use::read(Some("by-day")), 0).unwrap();
    let throttled = refused(throttle.admit(&table, Use::read(Some("by-buyer")), 0));
    assert_eq!(throttled.reason(), "IndexReadMaxOnDemandThroughputExceeded");
}

#[test]
fn a_local_index_is_part_of_its_table() {
    let table = table(OnDemand { reads: Some(5), writes: None });
    let throttle = knowing(NODE_ALONE, &table);
    throttle.charge(&table, Asked::Read, &Consumed::read(Some(1), 1 << 20, true), 0);
    let throttled = refused(throttle.admit(&table, Use::read(Some("by-day")), 1_000));
    assert_eq!(throttled.reason(), "TableReadMaxOnDemandThroughputExceeded");
    throttle.admit(&table, Use::read(Some("by-buyer")), 1_000).unwrap();
}

#[test]
fn provisioned_throughput_is_kept_to_where_that_is_asked_for() {
    let table = Table { throughput: Some((1, 1)), ..table(OnDemand::default()) };
    let ignoring = knowing(NODE_ALONE, &table);
    ignoring.charge(&table, Asked::Write, &Consumed::table(100.0), 0);
    ignoring.admit(&table, Use::WRITE, 0).unwrap();
    let keeping = knowing(Options { provisioned: true, ..NODE_ALONE }, &table);
    keeping.charge(&table, Asked::Write, &Consumed::table(100.0), 0);
    assert_eq!(
        refused(keeping.admit(&table, Use::WRITE, 0)).reason(),
        "TableWriteProvisionedThroughputExceeded"
    );
}

#[test]
fn a_node_lets_through_so_much_of_all_tables() {
    let table = table(OnDemand::default());
    let throttle = knowing(Options { read_units: Some(2), ..NODE_ALONE }, &table);
    throttle.charge(&table, Asked::Read, &Consumed::table(read_units(40 << 10, true)), 0);
    assert_eq!(refused(throttle.admit(&table, Use::read(None), 0)).reason(), "TableReadAccountLimitExceeded");
    throttle.admit(&table, Use::WRITE, 0).unwrap();
}

#[test]
fn nodes_have_shares_by_what_each_is_asked() {
    let table = table(OnDemand { reads: None, writes: Some(100) });
    let nodes = [knowing(NODE_ALONE, &table), knowing(NODE_ALONE, &table), knowing(NODE_ALONE, &table)];
    // One is asked all the time, one now and then, one not at all; each second they tell each other.
    let mut done = 0.0;
    for now_ms in 0..60_000_u64 {
        for (node, every) in nodes.iter().zip([1, 50, u64::MAX]) {
            if now_ms.is_multiple_of(every) && node.admit(&table, Use::WRITE, now_ms).is_ok() {
                node.charge(&table, Asked::Write, &Consumed::table(1.0), now_ms);
                done += 1.0;
            }
        }
        if now_ms.is_multiple_of(1000) {
            let mut totals = Totals { nodes: 3, ..Totals::default() };
            for usage in nodes.iter().flat_map(|node| node.usages(Duration::from_secs(1))) {
                totals.by_name.entry(usage.name.clone()).or_default().operations += usage.operations;
            }
            nodes.iter().for_each(|node| node.weigh(&totals));
        }
    }
    // A minute's worth, and what each had at the beginning.
    assert!((5_000.0..6_500.0).contains(&done), "{done}");
}

#[test]
fn another_limit_takes_effect_and_none_lets_everything_through() {
    let mut table = table(OnDemand { reads: None, writes: Some(1) });
    let throttle = knowing(NODE_ALONE, &table);
    throttle.charge(&table, Asked::Write, &Consumed::table(1_000.0), 0);
    throttle.admit(&table, Use::WRITE, 0).unwrap_err();
    // The same tables heard again change nothing.
    throttle.heard(&Tables::from_iter([table.clone()]));
    throttle.admit(&table, Use::WRITE, 0).unwrap_err();
    table.on_demand.writes = Some(50);
    throttle.heard(&Tables::from_iter([table.clone()]));
    throttle.admit(&table, Use::WRITE, 0).unwrap();
    throttle.charge(&table, Asked::Write, &Consumed::table(1_000.0), 0);
    throttle.admit(&table, Use::WRITE, 0).unwrap_err();
    table.on_demand.writes = None;
    throttle.heard(&Tables::from_iter([table.clone()]));
    throttle.admit(&table, Use::WRITE, 0).unwrap();
}
