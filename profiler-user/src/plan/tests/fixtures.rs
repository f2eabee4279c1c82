//! Functions as real compilers made them (gcc 12.2, rustc 1.99.1), as bytes.

/// A function: where it was linked to, its bytes, its cold part.
pub(super) struct Fixture {
    pub(super) address: u64,
    pub(super) hex: &'static str,
    pub(super) cold: Option<(u64, &'static str)>,
}

/// gcc -O0.
pub(super) const GCC_O0: Fixture = Fixture {
    address: 0x1169,
    hex: "554889e5534883ec18897dec8975e88b45ec3b45e87e098b45ec0faf45e8eb148b45ec2b45e889c3\
    8b45e889c7e8e5feffff01d8488b5df8c9c3",
    cold: None,
};

/// gcc -O0 -fcf-protection.
pub(super) const GCC_O0_CET: Fixture = Fixture {
    address: 0x1169,
    hex: "f30f1efa554889e5534883ec18897dec8975e88b45ec3b45e87e098b45ec0faf45e8eb148b45ec2b\
    45e889c38b45e889c7e8e1feffff01d8488b5df8c9c3",
    cold: None,
};

/// gcc -O2.
pub(super) const GCC_O2: Fixture = Fixture {
    address: 0x11c0,
    hex: "89f839f77e0a0fafc6c3660f1f4400005329f089f789c3e8a4feffff01d85bc3",
    cold: None,
};

/// gcc -O2 -fpatchable-function-entry=5.
pub(super) const GCC_PATCHABLE: Fixture = Fixture {
    address: 0x11c0,
    hex: "909090909089f839f77e050fafc6c3905329f089f789c3e8a4feffff01d85bc3",
    cold: None,
};

/// gcc -O2 -pg -mfentry -mnop-mcount.
pub(super) const GCC_NOP5: Fixture = Fixture {
    address: 0x40_1240,
    hex: "0f1f44000089f839f77e050fafc6c3905329f089f789c3e8b4ffffff01d85bc3",
    cold: None,
};

/// gcc -O2 -no-pie: returns on two ways.
pub(super) const CALLEE: Fixture = Fixture {
    address: 0x40_11f0,
    hex: "4883ec0883ff027e1783c701e88fffffff4883c40801c0c30f1f840000000000e87bffffff4883c4\
    0883c001c3",
    cold: None,
};

/// jumps to CALLEE, or returns.
pub(super) const TAIL: Fixture = Fixture {
    address: 0x40_1220,
    hex: "83ff0774135389fbe863ffffff8d7b015bebbd0f1f44000031c0c3",
    cold: None,
};

/// ends in a jump to CALLEE only.
pub(super) const CHAIN: Fixture =
    Fixture { address: 0x40_1240, hex: "538d1c3f89dfe845ffffff8d7b015beb9f", cold: None };

/// gcc -O2 -fPIC: a leaf, relative jump table.
pub(super) const SWITCH_PIC: Fixture = Fixture {
    address: 0x1260,
    hex: "89f283ff070f8745feffff488d0d8e0d000089ff486304b94801c8ffe00f1f004863c689f14869c0\
    93244992c1f91f48c1e82001f0c1f80229c88d0cc50000000029c189f029c8c30f1f840000000000\
    89f0f7d0c30f1f008d0476c30f1f40008d4607c30f1f40008d46f7c30f1f40004863c6c1fa1f4869\
    c05655555548c1e82029d0c30f1f400089f083f055c366908d04f500000000c3",
    cold: Some((0x10b0, "31c0c3")),
};

/// the same with -fcf-protection: `notrack jmp`.
pub(super) const SWITCH_CET: Fixture = Fixture {
    address: 0x1260,
    hex: "f30f1efa89f283ff070f8741feffff488d0d8a0d000089ff486304b94801c83effe0660f1f440000\
    4863c689f14869c093244992c1f91f48c1e82001f0c1f80229c88d0cc50000000029c189f029c8c3\
    89f0f7d0c30f1f008d0476c30f1f40008d4607c30f1f40008d46f7c30f1f40004863c6c1fa1f4869\
    c05655555548c1e82029d0c30f1f400089f083f055c366908d04f500000000c3",
    cold: Some((0x10b0, "31c0c3")),
};

/// the same with -no-pie: absolute jump table.
pub(super) const SWITCH_ABSOLUTE: Fixture = Fixture {
    address: 0x40_1260,
    hex: "83ff070f87d7fdffff89ffff24fd08204000660f1f4400004863c689f24869c093244992c1fa1f48\
    c1e82001f0c1f80229d08d14c50000000029c289f029d0c389f0f7d0c30f1f008d0476c30f1f4000\
    8d4607c30f1f40008d46f7c30f1f40004863c6c1fe1f4869c05655555548c1e82029f0c30f1f4000\
    89f083f055c366908d04f500000000c3",
    cold: Some((0x40_1040, "31c0c3")),
};

/// a switch below pushed registers.
pub(super) const SWITCH_DEEP: Fixture = Fixture {
    address: 0x1300,
    hex: "41544189f45589fd89f753e870fdffff89c383fd067725488d15020d000089e8486304824801d0ff\
    e00f1f800000000089de4489e7e826fdffff01c389ee89dfe81bfdffff01d85b5d415cc30f1f4000\
    8d7bf7e828fdffff89c3ebe00f1f4000438d3c64e817fdffff5b5d8d0480415cc30f1f8000000000\
    bf03000000e8fefcffff01c3ebb6662e0f1f840000000000418d7c2404e8e6fcffff29c3eb9e6690\
    89dfbe03000000e8b4fcffff0fafd8eb8b0f1f80000000008d7b01e8c0fcffff31c3e975ffffff",
    cold: None,
};

/// a switch below an alloca.
pub(super) const SWITCH_ALLOCA: Fixture = Fixture {
    address: 0x1460,
    hex: "554863c74889e54154534889c34883c0174883e0f04829c44c8d64240f4983e4f04c89e7e8c7fbff\
    ff83fb050f87cb000000488d15a30b000089db4863049a4801d0ffe00f1f4000bf05000000e8cefb\
    ffff488d65f05b83c001415c5dc36690bf06000000e8b6fbffff488d65f05b415c5dc30f1f440000\
    bf01000000e89efbffff89c2410fbe0424488d65f05b415c01d05dc30f1f4000bf02000000e87efb\
    ffff410fbe1424488d65f05b415c29d05dc3660f1f440000bf03000000e85efbffff89c2410fbe44\
    2402488d65f05b415c0fafc25dc3662e0f1f840000000000bf04000000e836fbffff89c2410fbe44\
    2401488d65f05b415c31d05dc3410fbe442403488d65f05b415c5dc3",
    cold: None,
};

/// an array of functions, bounds-checked: a tail call.
pub(super) const VIA_ARRAY: Fixture = Fixture {
    address: 0x40_15d0,
    hex: "89f883f803760931c0c3660f1f440000488b04c54040400089f7ffe0",
    cold: None,
};

/// a tail call through a table of functions.
pub(super) const VIRTUAL: Fixture =
    Fixture { address: 0x13d0, hex: "4885ff740683c601ff6708b8ffffffffc3", cold: None };

/// a tail call into the PLT.
pub(super) const PLT: Fixture = Fixture { address: 0x13f0, hex: "83c701e988fcffff", cold: None };

/// leaves to its cold part and comes back.
pub(super) const COLD: Fixture = Fixture {
    address: 0x1400,
    hex: "4155415455534883ec0885ff7e424189fc4989f531db31ed0f1f84000000000089df83c301e856fc\
    ffff01c54139dc75ef81fd393000000f8487fcffff4883c40889e85b5d415c415dc3660f1f440000\
    4883c40831ed5b89e85d415c415dc3",
    cold: Some((
        0x10c4,
        "bf39300000e872ffffff4c89efe87affffffbf39300000e8a0ffffffbf0900000041894500e892ff\
         ffff8d2c40e947030000",
    )),
};

/// g++ -O2: destructors run by a landing pad in the cold part.
pub(super) const THROWS: Fixture = Fixture {
    address: 0x1230,
    hex: "538d47014883ec10897c24088944240ce80bfeffff89c385c00f8871feffff8b7c240ce8f8fdffff\
    488d7c240c01c3e8ccfdffff488d7c2408e8c2fdffff4883c41089d85bc3e962feffff",
    cold: Some((
        0x10c0,
        "bf04000000e876ffffff488b350f2f000031d289184889c7e883ffffff488d7c240c4889c3e846ff\
         ffff488d7c2408e83cffffff4889dfe894ffffff",
    )),
};

/// g++ -O2: catches.
pub(super) const CATCHES: Fixture = Fixture {
    address: 0x1280,
    hex: "55534883ec18897c240ce811feffff488d7c240c8d5801e894fdffff4883c41889d85b5dc34889c3\
    4889d5e94cfeffff",
    cold: Some((
        0x10fc,
        "488d7c240ce82affffff4883ed014889df7519e86cffffff8b38e835ffffff8d1c00e84dffffffe9\
         74010000e853ffffff31ffe8fcfeffffe837ffffff83cbffe95b0100004889c3e827ffffff4889df\
         e83fffffff4889c3e817ffffff4889dfe82fffffff",
    )),
};

/// gcc -O2 -fstack-clash-protection: probes the stack in a loop.
pub(super) const STACK_CLASH: Fixture = Fixture {
    address: 0x15c0,
    hex: "55534c8d9c2400c0ffff4881ec0010000048830c24004c39dc75ef4881ec280e00004889e54889fb\
    4889efe860faffff4889dfe858faffff4889efe850faffff4881c4284e00005b5dc3",
    cold: None,
};

/// gcc -O3 -mavx2: nothing but VEX before the return.
pub(super) const AVX: Fixture = Fixture {
    address: 0x15f0,
    hex: "c5fc100fc4e37d19c801c5f858c1c5f812c8c5f058c8c5f0c6c155c5f858c1c5f877c3",
    cold: None,
};

/// ends in abort.
pub(super) const NEVER_RETURNS: Fixture =
    Fixture { address: 0x15b0, hex: "4883ec084863ffe894faffffe86ffaffff", cold: None };

/// rustc -O: panics at the end.
pub(super) const RUST: Fixture = Fixture {
    address: 0x12cf0,
    hex: "50488b5708488b4f104885c90f84a30000004883f904730631ff31c0eb664889cf4883e7fc660fef\
    c031c0660fefc990f30f6f14c2f30f6f5cc210660f6fe2660f73d43d660f73f203660febd4660fd4\
    ca660f6fd3660f73d23d660f73f303660febda660fd4c34883c0044839c775c0660fd4c1660f70c8\
    ee660fd4c866480f7ec8eb0e4c8b04fa49c1c0034c01c048ffc74839f975ed4883f80a76184885f6\
    74394889c14809f148c1e920741231d248f7f659c34839ce730c488b04f259c331d2f7f659c3488d\
    155b8c03004889f74889ceff1537a50300eb0d488d3d5e8c0300ff1530a503000f0bff1530a50300",
    cold: None,
};
