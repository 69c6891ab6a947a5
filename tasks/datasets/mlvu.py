"""MLVU: questions about films, chores and surveillance of minutes to hours.

One JSON file a task, in `json/`, with its videos in a folder of the same name in `video/`:

    json/3_ego.json
    [{"video": "ego_9.mp4", "duration": 412.3, "question": "Where did I put the ladle?",
      "candidates": ["In the drawer", "On the shelf", "In the sink", "In the pan"],
      "answer": "In the sink", "question_type": "ego"}]

--data is one of these files, or the folder `json/`. The tasks without candidates (sub-scene
captions and summaries) are judged by a model, and not read.
"""

from pathlib import Path
from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo, answer_letter, chose_right
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked, lettered
from visreplay.tasks.types import Sample


class MLVU(FileTask):
    """One or all of the tasks that have candidates."""

    entries: ClassVar = (
        TaskInfo(
            "mlvu",
            "option letter",
            "json/1_plotQA.json or another, or json/; videos in video/1_plotQA/",
        ),
    )

    def media_folder(self, data: Path) -> Path:
        """Above `json/`."""
        folder = super().media_folder(data)
        return folder.parent if folder.resolve().name == "json" else folder

    def read(self, row: Row) -> Sample:
        """A question; facts hold `options`."""
        candidates = row.texts("candidates")
        if len(candidates) < 2:
            raise row.refused("candidates", f"two or more are needed, not {len(candidates)}")
        options = lettered(candidates)
        video, task = row.text("video"), row.file.stem
        places = (f"video/{task}/{video}", f"{task}/{video}", f"video/{video}", video)
        return Sample(
            sample_id=f"{task}/{row.number}",
            question=asked(row.text("question"), options),
            answer=answer_text(row, options),
            video=self.find(row, "video", *places),
            category=row.optional("question_type") or task,
            facts={"options": options},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer chooses the right candidate."""
        return chose_right(sample, answer)


def answer_text(row: Row, options: dict[str, str]) -> str:
    """The letter of the candidate that is the answer: as a text first, for "A" may be one."""
    same = [letter for letter, option in options.items() if option.strip() == row.text("answer")]
    return same[0] if len(same) == 1 else answer_letter(row, "answer", options)
