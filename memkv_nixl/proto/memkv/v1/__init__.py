"""Made by `./dev protos`; the .proto files are what is written by hand."""
