//! When keys were taken that prove nothing, because events were lost at the time.

/// How many losses are told apart.
const LOSSES: usize = 256;

/// The stretches of events within which something was lost. A loss lies somewhere between the last
/// event its lane got through and the event whose number showed it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tainted {
    /// (shown by this event, lost after that event), both rising: a later loss that reaches further
    /// back covers an earlier one.
    losses: Vec<(u64, u64)>,
}

impl Tainted {
    /// Event `shown` shows a loss after event `since`.
    pub(super) fn add(&mut self, since: u64, shown: u64) {
        while self.losses.pop_if(|(_, earlier)| *earlier >= since).is_some() {}
        self.losses.push((shown, since));
        if self.losses.len() > LOSSES {
            // The two oldest become one that covers both.
            let (_, since) = self.losses.remove(0);
            if let Some(oldest) = self.losses.first_mut() {
                oldest.1 = since;
            }
        }
    }

    /// Whether a loss since shown was before the event `taken`.
    pub(super) fn covers(&self, taken: u64) -> bool {
        let later = self.losses.partition_point(|(shown, _)| *shown <= taken);
        self.losses.get(later).is_some_and(|(_, since)| *since < taken)
    }
}

#[cfg(test)]
mod tests {
    use super::Tainted;

    #[test]
    fn what_was_taken_between_a_loss_and_its_discovery_is_tainted() {
        let mut tainted = Tainted::default();
        assert!(!tainted.covers(5));
        tainted.add(10, 20);
        let covered =
            |tainted: &Tainted| (1..40).filter(|at| tainted.covers(*at)).collect::<Vec<_>>();
        assert_eq!(covered(&tainted), (11..20).collect::<Vec<_>>());
        tainted.add(25, 30);
        assert_eq!(covered(&tainted), (11..20).chain(26..30).collect::<Vec<_>>());
        tainted.add(5, 35);
        assert_eq!(covered(&tainted), (6..35).collect::<Vec<_>>());
    }

    #[test]
    fn too_many_losses_become_one() {
        let mut tainted = Tainted::default();
        for at in 0..10_000 {
            tainted.add(at * 10, at * 10 + 5);
        }
        assert!(tainted.losses.len() <= super::LOSSES);
        assert!(tainted.covers(3) && tainted.covers(7) && tainted.covers(99_993));
        assert!(!tainted.covers(99_997));
    }
}
