from .image import TokenGrid, crop, load_image, parse_box, zoom
from .media import DecodedVideo, Media
from .media_kind import media_kind
from .store import ImageStore
from .types import Box, Frame, Size, ToolError
from .video import VideoInfo, probe, sample_frames

__all__ = [
    "Box",
    "DecodedVideo",
    "Frame",
    "ImageStore",
    "Media",
    "Size",
    "TokenGrid",
    "ToolError",
    "VideoInfo",
    "crop",
    "load_image",
    "media_kind",
    "parse_box",
    "probe",
    "sample_frames",
    "zoom",
]
