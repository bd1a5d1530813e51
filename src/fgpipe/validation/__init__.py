"""Whether vLLM will serve an adapter as it was trained: decided from the folder alone, without vLLM or torch.

`contract.contract` says what the server demands, `static.validate` checks a folder against it, `report` shows it.
"""
