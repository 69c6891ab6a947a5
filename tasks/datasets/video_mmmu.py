"""VideoMMMU: questions that test whether a model perceives, understands and applies a lecture.

A JSON file for each of Perception, Comprehension and Adaptation, or a folder of them. The id
is that of the video and occurs in all three:

    {"Adaptation": {"0": {"id": "validation_Optics_4",
      "link_selected": "https://www.youtube.com/watch?v=..",
      "question": "Which ray in <image 1> is drawn wrongly?",
      "options": ["the first", "the second", "the third"], "answer": "B",
      "question_type": "multiple-choice"}}}

`question_type` may be missing. If it is `open`, `options` is empty and the answer is a number or a
text. Videos are `ID.mp4` beside the file, in `videos/`, or in `videos/SPLIT/`. The picture of
`<image 1>` is at the path in `image`, or is `images/ID.png`. Without either, the video ends with
the picture, and the question says so.
"""

from pathlib import Path

from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import options_by_letter, question_fields, strip_media_marks
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample

PICTURE_IN_VIDEO = "The video ends with the picture that the question calls [image 1]."


class VideoMMMU(FileTask):
    """VideoMMMU, over one or all of its splits."""

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `options`, empty for an open question."""
        name = row.text("id")
        split = row.groups[0] if row.groups else row.file.stem.removesuffix("_video").title()
        options = options_by_letter(row.texts("options"))
        question = strip_media_marks(row.text("question"))
        images: tuple[Path, ...] = ()
        if "[image 1]" in question:
            path = row.optional("image")
            if path is not None:
                images = (self.find(row, "image", path),)
            elif (self.folder / "images" / f"{name}.png").is_file():
                images = (self.find(row, "id", f"images/{name}.png"),)
            else:
                question = f"{PICTURE_IN_VIDEO}\n{question}"
        places = (f"{name}.mp4", f"videos/{name}.mp4", f"videos/{split}/{name}.mp4")
        return Sample(
            sample_id=f"{split}/{name}",
            **question_fields(question, options),
            answer=answer_letter(row, "answer", options) if options else row.text("answer"),
            images=images,
            video=self.find(row, "id", *places),
            category=split,
            facts={"options": options},
        )

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule for open questions: a number or a text."""
        return Scorer("value")
