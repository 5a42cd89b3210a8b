"""The search for rescale factors: candidates, the needle-driven objective, the published algorithms, a faster one."""

# A name is what a configuration's [search] writes as `algorithm`; the class is imported when used.
CATALOGUE = {
    "fast": "methods.longrope.search.fast:FastSearch",
    "longrope2": "methods.longrope.search.longrope2:LongRoPE2Search",
    "longrope": "methods.longrope.search.longrope:LongRoPESearch",
}
