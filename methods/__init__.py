"""How a model's context is extended. A name below is what a preset writes; the class is imported when used."""

CATALOGUE = {
    "vanilla": "methods.vanilla:Vanilla",
    "position_interpolation": "methods.position_interpolation:PositionInterpolation",
    "ntk": "methods.ntk:NTK",
    "dynamic_ntk": "methods.ntk:DynamicNTK",
    "ntk_by_parts": "methods.yarn:NTKByParts",
    "yarn": "methods.yarn:YaRN",
    "llama3": "methods.llama3:Llama3",
    "abf": "methods.abf:ABF",
    "cope": "methods.cope:CoPE",
    "mrrope_pro": "methods.mrrope:MrRoPEPro",
    "resonance": "methods.resonance:Resonance",
    "longrope": "methods.longrope.methods:LongRoPE",
    "longrope2": "methods.longrope.methods:LongRoPE2",
    "longrope2_closed_form": "methods.longrope.methods:LongRoPE2ClosedForm",
    "checkpoint": "methods.longrope.trained:TrainedCheckpoint",
}
