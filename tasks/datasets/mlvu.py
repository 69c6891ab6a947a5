"""MLVU: questions about videos of minutes to hours: films, chores, surveillance.

One JSON file for each task, in `json/`, with its videos in a folder of the same name in `video/`:

    json/3_ego.json
    [{"video": "ego_9.mp4", "duration": 412.3, "question": "Where did I put the ladle?",
      "candidates": ["In the drawer", "On the shelf", "In the sink", "In the pan"],
      "answer": "In the sink", "question_type": "ego"}]

The data is one of these files, or the folder `json/`. Questions without candidates (captions of
scenes and summaries) are left out with a note, because the paper has their answers judged by a
model (arXiv 2406.04264).
"""

from pathlib import Path

from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import options_by_letter, question_fields
from visreplay.tasks.types import Sample


class MLVU(FileTask):
    """One or all of the tasks of MLVU that have candidates."""

    def media_folder(self, data: Path) -> Path:
        """The folder above `json/`."""
        folder = super().media_folder(data)
        return folder.parent if folder.resolve().name == "json" else folder

    def left_out(self, row: Row) -> str | None:
        """Leave out questions without candidates."""
        if row.fields.get("candidates") is not None:
            return None
        return "no candidates, and MLVU's paper has such answers judged by a model"

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `options`."""
        candidates = row.texts("candidates")
        if len(candidates) < 2:
            raise row.error("candidates", f"two or more are needed, not {len(candidates)}")
        options = options_by_letter(candidates)
        video, task = row.text("video"), row.file.stem
        places = (f"video/{task}/{video}", f"{task}/{video}", f"video/{video}", video)
        return Sample(
            sample_id=f"{task}/{row.number}",
            **question_fields(row.text("question"), options),
            answer=answer_text(row, options),
            video=self.find(row, "video", *places),
            category=row.optional("question_type") or task,
            facts={"options": options},
        )


def answer_text(row: Row, options: dict[str, str]) -> str:
    """Find the letter of the right candidate: by its text first, because "A" may be a text."""
    same = [letter for letter, option in options.items() if option.strip() == row.text("answer")]
    return same[0] if len(same) == 1 else answer_letter(row, "answer", options)
