"""Video-Holmes: questions about suspense films that need inference.

A JSON file; the film is `VIDEO ID.mp4`, beside the file or in `videos/`:

    [{"video ID": "k3VqT9xPz0A", "Question ID": 2, "Question Type": "TCI",
      "Question": "Why does the gardener hide the second key?",
      "Options": {"A": "To protect the child", "B": "He stole it", "C": "..", "D": "..", "E": "..",
                  "F": ".."},
      "Answer": "A", "Explanation": "At 02:10 he sees .."}]
"""

from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import question_fields
from visreplay.tasks.types import Sample


class VideoHolmes(FileTask):
    """Video-Holmes."""

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `options` and `explanation`."""
        video = row.text("video ID")
        options = row.options("Options")
        places = (f"videos/{video}.mp4", f"{video}.mp4", f"videos_cropped/{video}.mp4")
        return Sample(
            # In some releases the question's own id is unique only within its film.
            sample_id=f"{video}/{row.text('Question ID')}",
            **question_fields(row.text("Question"), options),
            answer=answer_letter(row, "Answer", options),
            video=self.find(row, "video ID", *places),
            category=row.optional("Question Type"),
            facts={"options": options, "explanation": row.optional("Explanation")},
        )
