"""Made by `./dev protos`; rpc.proto is what is written by hand."""
