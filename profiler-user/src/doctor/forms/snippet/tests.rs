//! That every snippet is what it says it is.

use iced_x86::{Decoder, DecoderOptions};

use super::*;
use crate::plan::KernelForms;

#[test]
fn every_site_is_one_instruction_and_on_a_boundary() {
    let all = forms().into_iter().flat_map(|form| form.cases);
    let timed = timed().into_iter().map(|(_, case)| case);
    for case in all.chain(timed).chain([timed_event(), timed_call().0]) {
        let code = case.code();
        let boundaries: Vec<_> = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE)
            .into_iter()
            .inspect(|insn| assert!(!insn.is_invalid(), "{code:02x?}"))
            .map(|insn| (insn.ip() as usize, insn.len()))
            .collect();
        assert!(boundaries.contains(&(case.site(), case.insn().len())), "{code:02x?}");
    }
}

#[test]
fn what_speaks_for_the_allow_list_is_on_it_and_the_rest_is_not() {
    for form in forms() {
        let first = form.position == Position::First;
        for case in &form.cases {
            let list = KernelForms::default();
            let class = if form.kind == Some(FormKind::Ret) {
                list.is_probed_ret(case.insn()).then(|| FormKind::Ret.class())
            } else {
                list.cost(case.insn(), first)
            };
            assert_eq!(class, form.kind.map(FormKind::class), "{} {:02x?}", form.id, case.insn());
            if let Some(kind) = form.kind.filter(|kind| *kind != FormKind::Ret) {
                assert_eq!(list.without(kind).cost(case.insn(), first), None, "{}", form.id);
            }
        }
    }
}

#[test]
fn every_group_is_tried_and_timed_and_no_form_twice() {
    let forms = forms();
    for kind in FormKind::ALL {
        assert!(forms.iter().any(|form| form.kind == Some(kind)), "{kind:?}");
        assert!(timed().iter().any(|(timed, _)| *timed == kind), "{kind:?}");
    }
    for (index, form) in forms.iter().enumerate() {
        let same = |other: &&Form| other.id == form.id && other.position == form.position;
        assert_eq!(forms.iter().position(|other| same(&other)), Some(index), "{}", form.id);
    }
    for (kind, case) in timed() {
        let list = KernelForms::default();
        if kind == FormKind::Ret {
            assert!(list.is_probed_ret(case.insn()));
        } else {
            assert_eq!(list.without(kind).cost(case.insn(), true), None, "{kind:?}");
            assert!(list.cost(case.insn(), true).is_some(), "{kind:?}");
        }
    }
}
