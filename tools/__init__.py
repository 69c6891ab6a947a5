"""Visual tools: pixels and frames in, pixels and frames out."""

from visreplay.tools.image import TokenGrid, crop, load_image, parse_box, zoom
from visreplay.tools.media import DecodedVideo, Media
from visreplay.tools.store import ImageStore
from visreplay.tools.types import Box, Frame, Size, ToolError
from visreplay.tools.video import VideoInfo, probe, sample_frames

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
    "parse_box",
    "probe",
    "sample_frames",
    "zoom",
]
