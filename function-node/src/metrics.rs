//! Metrics of a function node.

use std::time::Duration;

use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Names and units, once.
pub(crate) fn describe() {
    describe_counter!(
        "trimaran_function_invocations_total",
        "Invocations that ended, by function and outcome"
    );
    describe_histogram!("trimaran_function_phase_seconds", "Time of an invocation in queue, init and run");
    describe_counter!("trimaran_function_starts_total", "Instances that were started, by function");
    describe_counter!("trimaran_function_log_lines_dropped_total", "Log records that were left out");
    describe_gauge!("trimaran_function_connections", "Open HTTP connections");
}

pub(crate) fn invocation(
    function: &str,
    outcome: &'static str,
    queue: Duration,
    init: Duration,
    run: Duration,
) {
    let labels = [("function", function.to_owned()), ("outcome", outcome.to_owned())];
    counter!("trimaran_function_invocations_total", &labels).increment(1);
    for (phase, time) in [("queue", queue), ("init", init), ("run", run)] {
        histogram!("trimaran_function_phase_seconds", "function" => function.to_owned(), "phase" => phase)
            .record(time.as_secs_f64());
    }
}

pub(crate) fn started(function: &str) {
    counter!("trimaran_function_starts_total", "function" => function.to_owned()).increment(1);
}

pub(crate) fn dropped() -> Counter {
    counter!("trimaran_function_log_lines_dropped_total")
}

pub(crate) fn connections() -> Gauge {
    gauge!("trimaran_function_connections")
}
