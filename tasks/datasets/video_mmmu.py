"""VideoMMMU: what was seen in a lecture, understood of it, and can be applied.

A JSON file for each of Perception, Comprehension and Adaptation, or a folder of them; the same id,
that of the video, occurs in all three:

    {"Adaptation": {"0": {"id": "validation_Optics_4",
      "link_selected": "https://www.youtube.com/watch?v=..",
      "question": "Which ray in <image 1> is drawn wrongly?",
      "options": ["the first", "the second", "the third"], "answer": "B",
      "question_type": "multiple-choice"}}}

`question_type` may be missing, or `open`: then `options` is empty, and the answer a number or a
text. Videos are `ID.mp4` beside the file, in `videos/`, or in `videos/SPLIT/`. The picture of
`<image 1>` is at `image`, a path, or `images/ID.png`; without either, it is what the video ends
with, and the question says so.
"""

from pathlib import Path
from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo, answer_letter, chose_right
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked, lettered, without_marks
from visreplay.tasks.scoring.scorers import same_value
from visreplay.tasks.types import Sample

AT_THE_END = "The video ends with the picture that the question calls [image 1]."


class VideoMMMU(FileTask):
    """The task, over one or all of its splits."""

    entries: ClassVar = (
        TaskInfo(
            "video-mmmu",
            "option letter; open questions: number or text",
            "perception_video.json, comprehension_video.json, adaptation_video.json, or their "
            "folder; videos in videos/",
        ),
    )

    def read(self, row: Row) -> Sample:
        """A question; facts hold `options`, which an open question lacks."""
        name = row.text("id")
        split = row.groups[0] if row.groups else row.file.stem.removesuffix("_video").title()
        options = lettered(row.texts("options"))
        question = without_marks(row.text("question"))
        images: tuple[Path, ...] = ()
        if "[image 1]" in question:
            path = row.optional("image")
            if path is not None:
                images = (self.find(row, "image", path),)
            elif (self.folder / "images" / f"{name}.png").is_file():
                images = (self.find(row, "id", f"images/{name}.png"),)
            else:
                question = f"{AT_THE_END}\n{question}"
        places = (f"{name}.mp4", f"videos/{name}.mp4", f"videos/{split}/{name}.mp4")
        return Sample(
            sample_id=f"{split}/{name}",
            question=asked(question, options) if options else question,
            answer=answer_letter(row, "answer", options) if options else row.text("answer"),
            images=images,
            video=self.find(row, "id", *places),
            category=split,
            facts={"options": options},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer chooses the right option, or is the expected number or text."""
        if sample.facts["options"]:
            return chose_right(sample, answer)
        return same_value(sample.answer, answer)
