"""How trainers spell an adapter: before a module's name, behind it, in a file's name and in its header. Data alone.

What only the adapters of one family have is in its record (`record.Adapters`). `*` stands for one part of a name, such
as PEFT's name of the adapter (`default`).
"""

from __future__ import annotations

HIGH, LOW = "dit", "dit_low"  # the experts

PREFIXES = (  # before a module's name, perhaps several in a row
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "model."),
    *("unet.", "pipe.dit.", "dit."),
)
FLAT = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")  # the same, before names with _ for every dot

ENDS = {  # behind a module's name -> which tensor of the change it is
    **dict.fromkeys(("lora_A.weight", "lora_A.*.weight", "lora_A", "lora.down.weight"), "down"),
    **dict.fromkeys(("lora_B.weight", "lora_B.*.weight", "lora_B", "lora.up.weight"), "up"),
    **{"lora_down.weight": "down", "lora_up.weight": "up"},
    **dict.fromkeys(("lora_B.bias", "lora_B.*.bias", "lora_up.bias"), "up_bias"),
    **{"lora_magnitude_vector": "magnitude", "lora_magnitude_vector.*": "magnitude"},
    **{"lora_magnitude_vector.*.weight": "magnitude", "dora_scale": "magnitude", "alpha": "alpha"},
    **{"diff": "difference", "w_norm": "difference", "diff_b": "bias_difference", "b_norm": "bias_difference"},
    "diff_m": "table_difference",
    **dict.fromkeys(("weight", "modules_to_save.weight", "modules_to_save.*.weight"), "value"),
    **dict.fromkeys(("bias", "base_layer.bias", "modules_to_save.bias", "modules_to_save.*.bias"), "bias_value"),
}
TAILS = {  # which tensor -> what makes a parameter's name of the module's
    **dict.fromkeys(("down", "up", "magnitude", "alpha", "value"), (".weight",)),
    **dict.fromkeys(("up_bias", "bias_difference", "bias_value"), (".bias",)),
    "difference": (".weight", ""),
    "table_difference": (),  # what the family's record says
}
KOHYA = ("lora_down.weight", "lora_up.weight")  # ends of the trainer whose headers have ss_network_alpha

OTHERS = {  # in a key -> a kind of adapter that is not read
    **{"lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", "vera_": "VeRA", "ia3_": "IA3", "lora_E": "AdaLoRA"},
    **{"lora_mid.": "LoCon with a kernel between its matrices", "lora_embedding_": "LoRA of an embedding"},
}

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = (PEFT_FILE, "pytorch_lora_weights.safetensors")  # in a folder: PEFT's, diffusers'
METADATA = "lora_adapter_metadata"  # diffusers' key in a header: PEFT's config as JSON, a prefix before each word
KOHYA_ALPHA = "ss_network_alpha"
ALPHAS, RANKS = ("lora_alpha", "alpha", "network_alpha"), ("rank", "lora_rank", "r", "network_dim")  # in other headers
UNSAID = ("", "None", "Dynamic")  # values that say nothing

NOISE = r"(high|low)[-_. ]?noise"  # in a name, in small letters: an expert
SHORT = r"(?<![a-z0-9])(high|low|hn|ln|h|l)(?![a-z0-9])"  # the same, where the other one's name is there too
EXPERTS = {"h": HIGH, "l": LOW}  # first letter of such a word
