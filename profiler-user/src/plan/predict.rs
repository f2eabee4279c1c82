//! What the calls of probed functions will cost the target: before anything is attached from the
//! plan, afterwards from what was counted.

use std::cmp::Reverse;

use profiler_common::{ProbeId, Role};

use super::{CostClass, Costs, PlannedProbe, ProbePlan};

/// How calls of a function are seen to end, once it is known where they come back: of those that can
/// be told beforehand, how many so and how many so. Of none: at emulated landings, as most are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// At an instruction that the kernel emulates.
    pub emulated: usize,
    /// At one that is single-stepped.
    pub stepped: usize,
    /// At a `ret` of the function itself.
    pub rets: usize,
}

impl Ends {
    /// At each `ret`, for good.
    pub const RETS: Self = Self { emulated: 0, stepped: 0, rets: 1 };
}

/// What a call of a probed function costs the target; nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCost {
    /// Where it begins.
    pub enter_ns: u64,
    /// Where it ends, once its landings stand; the mean of its ends. 0 if no end is watched.
    pub exit_ns: u64,
    /// Where it ends until then.
    pub early_exit_ns: u64,
}

impl CallCost {
    /// Of a probe whose calls end like that.
    #[must_use]
    pub fn of(probe: &PlannedProbe, costs: &Costs, ends: Ends) -> Self {
        // No probe has both.
        let enter_ns =
            dearest_ns(probe, Role::Enter, costs).max(dearest_ns(probe, Role::GoRuntime, costs));
        let early_exit_ns = dearest_ns(probe, Role::Ret, costs);
        if early_exit_ns == 0 {
            return Self { enter_ns, ..Self::default() };
        }
        let exit = |class| costs.exit_ns(class, probe.at_ret.len);
        let stepped = exit(CostClass::SingleStepped);
        let kinds = [
            (ends.emulated, exit(CostClass::Emulated)),
            (ends.stepped, stepped),
            (ends.rets, stepped),
        ];
        let (count, sum) =
            kinds.iter().fold((0, 0), |(n, sum), (of, ns)| (n + of, sum + *of as u64 * ns));
        let mean = sum.checked_div(count as u64);
        Self { enter_ns, exit_ns: mean.unwrap_or(exit(CostClass::Emulated)), early_exit_ns }
    }

    /// A whole call, once its landings stand.
    #[must_use]
    pub const fn call_ns(&self) -> u64 {
        self.enter_ns + self.exit_ns
    }

    /// A whole call until then.
    #[must_use]
    pub const fn early_call_ns(&self) -> u64 {
        self.enter_ns + self.early_exit_ns
    }

    /// The share of so many CPUs that so many calls a second take; 1 is all of them.
    #[must_use]
    pub fn share(&self, per_second: f64, cpus: f64) -> f64 {
        per_second * self.call_ns() as f64 / 1e9 / cpus
    }
}

/// What the calls of each probe of a plan cost, by [`ProbeId`].
#[must_use]
pub fn call_costs(
    plan: &ProbePlan,
    costs: &Costs,
    ends: &dyn Fn(ProbeId) -> Ends,
) -> Vec<CallCost> {
    plan.probes.iter().map(|probe| CallCost::of(probe, costs, ends(probe.id))).collect()
}

/// What a hit of a probe's dearest site of a role costs, nanoseconds; 0 if it has none.
#[must_use]
pub fn dearest_ns(probe: &PlannedProbe, role: Role, costs: &Costs) -> u64 {
    let sites = probe.sites.iter().filter(|site| site.role == role);
    let ns = sites.map(|site| match role {
        Role::Enter | Role::GoEnter | Role::GoRuntime => {
            costs.event_ns(site.cost, probe.at_enter.len)
        }
        Role::Ret | Role::Landing => costs.exit_ns(site.cost, probe.at_ret.len),
    });
    ns.max().unwrap_or(0)
}

/// Probes by what they take, most first: by their share where one is known, then by the cost of a
/// call.
#[must_use]
pub fn dearest_first(costs: &[CallCost], share: &dyn Fn(usize) -> Option<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_cached_key(|index| {
        let share = share(*index).filter(|share| share.is_finite()).unwrap_or(-1.0);
        // As a whole number a positive share keeps its order.
        let share = if share < 0.0 { 0 } else { share.to_bits() + 1 };
        Reverse((share, costs.get(*index).map(CallCost::call_ns)))
    });
    order
}

#[cfg(test)]
mod tests {
    use profiler_common::CaptureProgram;

    use super::*;
    use crate::model::{FileOffset, VirtAddr};
    use crate::plan::Site;
    use crate::target::ObjectId;

    const COSTS: Costs = Costs {
        trap: [90.0, 500.0, 3_000.0],
        event: [100.0, 140.0, 200.0],
        landing: 60.0,
        unmatched_landing: 550.0,
        apart: 0.0,
        measured: true,
    };

    fn probe(id: u16, sites: &[(Role, CostClass)]) -> PlannedProbe {
        let site = |(role, cost): &(Role, CostClass)| Site {
            object: ObjectId(0),
            offset: FileOffset(0),
            address: VirtAddr(0),
            role: *role,
            slot_offset: 0,
            flags: 0,
            cost: *cost,
            instruction: String::new(),
        };
        PlannedProbe {
            id: ProbeId(id),
            function: "f".into(),
            object: ObjectId(0),
            span: None,
            copies: 1,
            exits_with: ProbeId(id),
            sites: sites.iter().map(site).collect(),
            at_enter: CaptureProgram { len: 2, ..CaptureProgram::default() },
            at_ret: CaptureProgram::default(),
            notes: Vec::new(),
        }
    }

    fn usual() -> PlannedProbe {
        probe(0, &[(Role::Enter, CostClass::Emulated), (Role::Ret, CostClass::SingleStepped)])
    }

    #[test]
    fn a_call_is_paid_at_the_measured_price() {
        let cost = CallCost::of(&usual(), &COSTS, Ends::default());
        assert_eq!(cost, CallCost { enter_ns: 640, exit_ns: 560, early_exit_ns: 3_060 });
        assert_eq!((cost.call_ns(), cost.early_call_ns()), (1_200, 3_700));
        let assumed = CallCost::of(&usual(), &Costs::default(), Ends::RETS);
        assert_eq!((assumed.call_ns(), assumed.early_call_ns()), (6_600, 6_600));
    }

    #[test]
    fn ends_are_averaged_as_they_are_foreseen() {
        let half = Ends { emulated: 1, stepped: 1, rets: 0 };
        assert_eq!(CallCost::of(&usual(), &COSTS, half).exit_ns, 1_810);
        let mostly = Ends { emulated: 3, stepped: 0, rets: 1 };
        assert_eq!(CallCost::of(&usual(), &COSTS, mostly).exit_ns, (3 * 560 + 3_060) / 4);
    }

    #[test]
    fn what_has_no_exits_is_paid_once() {
        let witness = probe(0, &[(Role::Enter, CostClass::Optimised)]);
        let cost = CallCost::of(&witness, &COSTS, Ends::RETS);
        assert_eq!(cost, CallCost { enter_ns: 230, exit_ns: 0, early_exit_ns: 0 });
        let dearest = probe(
            0,
            &[(Role::Enter, CostClass::Emulated), (Role::Enter, CostClass::SingleStepped)],
        );
        assert_eq!(CallCost::of(&dearest, &COSTS, Ends::RETS).enter_ns, 3_140);
    }

    #[test]
    fn shares_are_of_all_cpus_there_are() {
        let costs = [CallCost { enter_ns: 600, exit_ns: 400, early_exit_ns: 0 }; 2];
        let share = |at: usize, per_second| costs[at].share(per_second, 2.0);
        assert!((share(0, 1e6) - 0.5).abs() < 1e-9 && (share(1, 5e5) - 0.25).abs() < 1e-9);
        assert!(share(0, 0.0).abs() < 1e-9);
    }

    #[test]
    fn the_dearest_comes_first() {
        let costs: Vec<CallCost> = [500, 900, 100, 700]
            .map(|enter_ns| CallCost { enter_ns, ..CallCost::default() })
            .to_vec();
        assert_eq!(dearest_first(&costs, &|_| None), [1, 3, 0, 2]);
        let shares = [Some(0.1), None, Some(2.5), Some(0.0)];
        assert_eq!(dearest_first(&costs, &|at| shares[at]), [2, 0, 3, 1]);
    }
}
