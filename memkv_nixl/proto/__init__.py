"""The control plane's protocol: memkv/v1/*.proto and what `./dev protos` makes of them.

docs/formats/control.md is the page.
"""
