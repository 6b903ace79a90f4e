//! When somebody is told that something is wrong: once, and once more when it is over.

use super::{Limits, Report, Status};

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// How it was, as far as anybody was told.
    pub before: Status,
    /// How it is.
    pub report: Report,
}

/// What was told last, and for how many looks it has been otherwise.
#[derive(Debug)]
pub struct Alerts {
    told: Status,
    since: Option<(Status, u32)>,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts { told: Status::Ok, since: None }
    }
}

impl Alerts {
    /// A look; what is to be told then. One that goes to and fro tells nothing.
    pub fn look(&mut self, report: &Report, limits: &Limits) -> Option<Alert> {
        let status = report.status;
        if status == self.told {
            self.since = None;
            return None;
        }
        let looks = match self.since {
            Some((before, looks)) if before == status => looks + 1,
            _ => 1,
        };
        self.since = Some((status, looks));
        let needed = if status > self.told { limits.error_threshold } else { limits.recovery_threshold };
        if looks < needed.max(1) {
            return None;
        }
        self.since = None;
        let before = std::mem::replace(&mut self.told, status);
        Some(Alert { before, report: report.clone() })
    }

    /// It could not be told: it is to be told with one of the next looks.
    pub fn was_not_told(&mut self, alert: &Alert) {
        self.told = alert.before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(alerts: &mut Alerts, statuses: &[Status]) -> Vec<(usize, Status)> {
        let limits = Limits { error_threshold: 3, recovery_threshold: 2, ..Limits::default() };
        let look = |status| Report {
            status,
            score: 0,
            reasons: vec![],
            round_trip_ms: None,
            details: None,
            slow_commands: None,
        };
        let told = statuses.iter().enumerate().filter_map(|(number, status)| {
            alerts.look(&look(*status), &limits).map(|alert| (number, alert.report.status))
        });
        told.collect()
    }

    #[test]
    fn what_stays_wrong_is_told_once_and_once_more_when_it_is_over() {
        use Status::{Degraded, Down, Ok};
        let mut alerts = Alerts::default();
        assert_eq!(looks(&mut alerts, &[Ok, Down, Down, Down, Down, Down, Down]), [(3, Down)]);
        assert_eq!(looks(&mut alerts, &[Ok, Ok, Ok, Ok]), [(1, Ok)]);
        assert_eq!(looks(&mut alerts, &[Degraded, Ok, Degraded, Ok, Degraded, Degraded, Ok]), [], "to and fro");
        assert_eq!(looks(&mut alerts, &[Degraded, Degraded, Degraded, Down, Down, Down]), [(2, Degraded), (5, Down)]);
    }

    #[test]
    fn what_could_not_be_told_is_told_later() {
        let mut alerts = Alerts::default();
        let limits = Limits { error_threshold: 1, ..Limits::default() };
        let report = Report {
            status: Status::Down,
            score: 0,
            reasons: vec![],
            round_trip_ms: None,
            details: None,
            slow_commands: None,
        };
        let alert = alerts.look(&report, &limits).expect("an alert");
        assert_eq!(alerts.look(&report, &limits), None);
        alerts.was_not_told(&alert);
        assert_eq!(alerts.look(&report, &limits).as_ref(), Some(&alert));
    }
}
