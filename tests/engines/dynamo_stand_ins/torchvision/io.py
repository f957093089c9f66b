"""Names only."""


class ImageReadMode:
    RGB = UNCHANGED = 0


def decode_image(*_: object, **__: object) -> None:
    raise NotImplementedError("a stand-in for torchvision reads no images")


def read_video(*_: object, **__: object) -> None:
    raise NotImplementedError("a stand-in for torchvision reads no videos")
