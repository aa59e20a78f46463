"""The methods of this repository: some facts are known by hand for them only, not for a method that a user adds."""

METHODS = (
    *(
        "ctcm",
        "ctcm_frozen",
        "dora",
        "dtsm",
        "dtsm_frozen",
        "full",
        "icfm",
        "icfm_frozen",
        "lora",
        "lora_plus",
        "lora_scaled",
    ),
    *("miss", "pissa", "rslora", "shim", "shim_fast_t", "shim_frozen", "vera"),
)
