"""Names only."""


def pil_to_tensor(*_: object, **__: object) -> None:
    raise NotImplementedError("a stand-in for torchvision converts no images")
