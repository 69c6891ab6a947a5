"""Video-Holmes: what suspense films leave to be inferred.

A JSON file; the film is `VIDEO ID.mp4`, beside the file or in `videos/`:

    [{"video ID": "k3VqT9xPz0A", "Question ID": 2, "Question Type": "TCI",
      "Question": "Why does the gardener hide the second key?",
      "Options": {"A": "To protect the child", "B": "He stole it", "C": "..", "D": "..", "E": "..",
                  "F": ".."},
      "Answer": "A", "Explanation": "At 02:10 he sees .."}]
"""

from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo, answer_letter, chose_right
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked
from visreplay.tasks.types import Sample


class VideoHolmes(FileTask):
    """The task."""

    entries: ClassVar = (
        TaskInfo(
            "video-holmes",
            "option letter",
            "test_Video-Holmes.json; videos in videos/",
        ),
    )

    def read(self, row: Row) -> Sample:
        """A question; facts hold `options` and, where it is there, `explanation`."""
        video = row.text("video ID")
        options = row.options("Options")
        places = (f"videos/{video}.mp4", f"{video}.mp4", f"videos_cropped/{video}.mp4")
        return Sample(
            # The question's own id counts within its film in some releases.
            sample_id=f"{video}/{row.text('Question ID')}",
            question=asked(row.text("Question"), options),
            answer=answer_letter(row, "Answer", options),
            video=self.find(row, "video ID", *places),
            category=row.optional("Question Type"),
            facts={"options": options, "explanation": row.optional("Explanation")},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer chooses the right option."""
        return chose_right(sample, answer)
