//! Metrics of a function node.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
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

/// What a pool counts all the time: looked up once, not for every request.
pub(crate) struct Meters {
    function: String,
    answered: Counter,
    started: Counter,
    queue: Histogram,
    init: Histogram,
    run: Histogram,
}

impl Meters {
    pub(crate) fn new(function: &str) -> Self {
        let phase = |phase: &'static str| histogram!("trimaran_function_phase_seconds", "function" => function.to_owned(), "phase" => phase);
        Self {
            function: function.to_owned(),
            answered: ended(function, "answered"),
            started: counter!("trimaran_function_starts_total", "function" => function.to_owned()),
            queue: phase("queue"),
            init: phase("init"),
            run: phase("run"),
        }
    }

    /// One invocation ended; no error = it was answered.
    pub(crate) fn ended(&self, error: &'static str, queue: Duration, init: Duration, run: Duration) {
        if error.is_empty() {
            self.answered.increment(1);
        } else {
            ended(&self.function, error).increment(1);
        }
        self.queue.record(queue.as_secs_f64());
        self.init.record(init.as_secs_f64());
        self.run.record(run.as_secs_f64());
    }

    /// One instance was started.
    pub(crate) fn started(&self) {
        self.started.increment(1);
    }
}

fn ended(function: &str, outcome: &'static str) -> Counter {
    let labels = [("function", function.to_owned()), ("outcome", outcome.to_owned())];
    counter!("trimaran_function_invocations_total", &labels)
}

pub(crate) fn dropped() -> Counter {
    counter!("trimaran_function_log_lines_dropped_total")
}

pub(crate) fn connections() -> Gauge {
    gauge!("trimaran_function_connections")
}
