"""The tools of an agent: crop, zoom, sample frames, and describe a video, by a model's arguments.

LangChain's tools (`agent/langchain/tools.py`) and the MCP server (`agent/mcp/server.py`) wrap
these methods and take their schemas from the signatures and docstrings here.
"""

from dataclasses import dataclass
from typing import Annotated

from PIL import Image
from pydantic import Field, StrictFloat, StrictInt

from visreplay.tools import image as images
from visreplay.tools.box_units import refuse_shares
from visreplay.tools.image import TokenGrid, parse_box, region_line
from visreplay.tools.media import Media
from visreplay.tools.types import Box, Frame, Size, ToolError
from visreplay.tools.video import MAX_FRAMES, VideoInfo, frames_line
from visreplay.tools.video_choice import FrameChoice

FRAME_SIDE = 768
"""Longest side of a frame, in pixels: dozens of them go into one message."""

ImageName = Annotated[str, Field(description="Reference of an image, or path of its file.")]
VideoName = Annotated[str, Field(description="Path of the video's file.")]
Region = Annotated[
    list[StrictInt | StrictFloat],
    # Pydantic refuses a longer list before it looks at its items.
    Field(max_length=4, description="The region [x1, y1, x2, y2] in pixels of the image."),
]
OptionalRegion = Annotated[
    list[StrictInt | StrictFloat] | None,
    Field(
        max_length=4,
        description="The region [x1, y1, x2, y2] in pixels of the image; the whole image if left "
        "out.",
    ),
]


@dataclass(frozen=True, slots=True)
class RegionView:
    """A region of an image, as a tool shows it.

    Attributes:
        image: The region's pixels, at the size shown.
        box: The region, in pixels of the source.
        source_size: Width and height of the source.
    """

    image: Image.Image
    box: Box
    source_size: Size

    @property
    def text(self) -> str:
        """One line about the region."""
        return region_line(self.source_size, self.box, self.image.size)

    @property
    def images(self) -> list[Image.Image]:
        """The region alone."""
        return [self.image]


@dataclass(frozen=True, slots=True)
class FramesView:
    """Frames of a video, as a tool shows them."""

    frames: tuple[Frame, ...]

    @property
    def text(self) -> str:
        """One line about the frames."""
        return frames_line([frame.time for frame in self.frames])

    @property
    def images(self) -> list[Image.Image]:
        """The frames' pictures, in their order."""
        return [frame.image for frame in self.frames]


@dataclass(frozen=True)
class VisualTools:
    """The tools over the media that a model or a client may name.

    Every method raises `ToolError` if something is wrong with its arguments.

    Examples:
        >>> from visreplay.tools import ImageStore
        >>> store = ImageStore()
        >>> tools = VisualTools(Media(store))
        >>> tools.crop(store.put(Image.new("RGB", (100, 80))), [10, 20, 60, 70]).text
        'box [10, 20, 60, 70] px of the 100 x 80 px image, shown at 50 x 50 px'

    Attributes:
        media: Images and videos by their names.
        grid: The token grid that `zoom` resizes to.
        max_frames: Largest number of frames that `sample_frames` shows.
        max_crop_pixels: Largest area that `crop` shows; None sets no bound.
    """

    media: Media
    grid: TokenGrid = TokenGrid()
    max_frames: int = MAX_FRAMES
    max_crop_pixels: int | None = None

    def crop(self, image: ImageName, bbox: Region) -> RegionView:
        """Cut a region out of an image, pixel for pixel."""
        source = self.media.image(image)
        refuse_shares(bbox, source.size)
        box = parse_box(bbox, source.size, source.size)
        if self.max_crop_pixels is not None and box.area > self.max_crop_pixels:
            raise ToolError(
                f"the crop has {box.width} x {box.height} = {box.area} pixels; at most "
                f"{self.max_crop_pixels} are sent as they are, but zoom shrinks a larger region"
            )
        return RegionView(images.crop(source, box), box, source.size)

    def zoom(self, image: ImageName, bbox: OptionalRegion = None) -> RegionView:
        """Look at a region of an image, or at the whole image, at a size that a model sees well."""
        source = self.media.image(image)
        if bbox is None:
            bbox = [0, 0, *source.size]
        else:
            refuse_shares(bbox, source.size)
        box = parse_box(bbox, source.size, source.size)
        return RegionView(images.zoom(source, box, grid=self.grid), box, source.size)

    def sample_frames(
        self,
        video: VideoName,
        count: Annotated[
            int | None,
            Field(description="Number of frames, evenly over the video (or over the window)."),
        ] = None,
        times: Annotated[
            list[float] | None,
            Field(max_length=MAX_FRAMES, description="Times of the frames, in seconds."),
        ] = None,
        around: Annotated[
            float | None, Field(description="Middle of a window of frames, in seconds.")
        ] = None,
        window: Annotated[
            float | None, Field(description="Length of that window, in seconds; 1 if left out.")
        ] = None,
        scenes: Annotated[
            int | None, Field(description="Largest number of scenes whose first frames to show.")
        ] = None,
    ) -> FramesView:
        """Show frames of a video, chosen by exactly one of count, times, around and scenes."""
        choice = FrameChoice(
            count=count,
            times=times,
            around=around,
            window=1.0 if window is None else window,
            scenes=scenes,
            max_frames=self.max_frames,
            max_side=FRAME_SIDE,
        )
        return FramesView(self.media.frames(video, choice))

    def video_info(self, video: VideoName) -> VideoInfo:
        """Describe a video: duration, frame rate, number and size of its frames."""
        return self.media.video_info(video)
