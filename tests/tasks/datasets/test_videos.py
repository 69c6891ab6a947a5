"""MMVU, VideoMMMU, MLVU, Video-Holmes and Video-R1's layout."""

from pathlib import Path

import pytest
from shared import write_clip, write_json, write_picture

from visreplay.tasks.datasets.file_task import FileTask
from visreplay.tasks.registry import get_task
from visreplay.tools import probe

MMVU = {
    "id": "validation_7",
    "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Physics/3.mp4",
    "question_type": "multiple-choice",
    "metadata": {"subject": "Physics"},
    "question": "What happens to the period?",
    "choices": {"A": "It doubles", "B": "It halves", "C": "It stays", "D": "", "E": ""},
    "answer": "C",
}
OPEN = MMVU | {
    **{"id": "validation_8", "question_type": "open-ended", "answer": "Depth-First Search (DFS)"},
    "choices": dict.fromkeys("ABCDE", ""),
}
MMMU = {
    "id": "validation_Optics_4",
    "link_selected": "https://www.youtube.com/watch?v=x",
    "question": "Which ray in <image 1> is drawn wrongly?",
    "options": ["the first", "the second", "the third"],
    "answer": "B",
    "question_type": "multiple-choice",
}
MLVU = {
    "video": "ego_9.mp4",
    "duration": 412.3,
    "question": "Where did I put the ladle?",
    "candidates": ["In the drawer", "On the shelf", "In the sink", "In the pan"],
    "answer": "In the sink",
    "question_type": "ego",
}
HOLMES = {
    "video ID": "k3VqT9xPz0A",
    "Question ID": 2,
    "Question Type": "TCI",
    "Question": "Why does the gardener hide the key?",
    "Options": {"A": "To protect the child", "B": "He stole it", "C": "By habit"},
    "Answer": "A",
    "Explanation": "At 02:10 he sees them.",
}
R1 = {
    "problem_id": 31,
    "problem": "<video>How many oars are in the water?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. Two", "B. Four", "C. None"],
    "path": "./NeXT-QA/rowing_4.mp4",
    "solution": "<answer>B</answer>",
}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [20] * 6)


def put(clip: Path, *places: str) -> Path:
    """Put the clip at places beside it; gives its folder."""
    for place in places:
        path = clip.parent / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.read_bytes())
    return clip.parent


@pytest.mark.parametrize("kind", ["multiple-choice", "multiple choice"])
def test_mmvu(clip: Path, kind: str) -> None:
    folder = put(clip, "videos/Physics/3.mp4")
    rows = [MMVU | {"question_type": kind}, OPEN]
    task = get_task("mmvu", write_json(folder / "validation.json", rows))
    sample = task.load("validation_7")
    assert sample.video is not None
    assert probe(sample.video).frame_count == 6
    assert sample.question.splitlines()[1:4] == ["A. It doubles", "B. It halves", "C. It stays"]
    assert (sample.category, sample.answer, sample.images) == ("multiple-choice", "C", ())
    assert task.is_right(sample, "C: It stays")
    assert not task.is_right(sample, "D")
    question = task.load("validation_8")
    assert question.question == MMVU["question"]
    for written in ("depth-first search", "The answer is DFS.", "Depth-First Search (DFS)"):
        assert task.is_right(question, written)
    assert not task.is_right(question, "BFS")


def test_mmvu_with_relative_paths(clip: Path) -> None:
    folder = put(clip, "videos/Physics/3.mp4")
    for video in ("Physics/3.mp4", "videos/Physics/3.mp4"):
        path = write_json(folder / "validation.json", [MMVU | {"video": video}])
        assert get_task("mmvu", path).load("validation_7").video is not None


def test_video_mmmu_over_its_splits(clip: Path) -> None:
    folder = put(clip, "videos/validation_Optics_4.mp4")
    data = folder / "data"
    perceived = {name: MMMU[name] for name in ("id", "options", "answer")} | {"question": "Which?"}
    item = MMMU | {"options": [], "question_type": "open", "answer": "12.97", "question": "How?"}
    write_json(data / "perception_video.json", {"Perception": {"0": perceived}})
    write_json(data / "adaptation_video.json", {"Adaptation": {"0": item}})
    put(clip, "data/videos/Perception/validation_Optics_4.mp4")
    partial = get_task("video-mmmu", data)
    assert partial.sample_ids()[1] == "Perception/validation_Optics_4"
    with pytest.raises(ValueError, match=r"adaptation_video\.json, Adaptation/0, field 'id'"):
        partial.load(partial.sample_ids()[0])
    put(clip, "data/validation_Optics_4.mp4")
    task = get_task("video-mmmu", data)
    assert task.sample_ids() == ["Adaptation/validation_Optics_4", "Perception/validation_Optics_4"]
    adaptation, perception = map(task.load, task.sample_ids())
    assert (adaptation.category, perception.category) == ("Adaptation", "Perception")
    assert task.is_right(adaptation, "about 12.97 g")
    assert not task.is_right(adaptation, "B")
    assert task.is_right(perception, "B. the second")


def test_the_picture_of_video_mmmu(clip: Path) -> None:
    folder = put(clip, "validation_Optics_4.mp4")
    path = write_json(folder / "adaptation_video.json", {"Adaptation": {"0": MMMU}})
    sample = get_task("video-mmmu", path).load("Adaptation/validation_Optics_4")
    assert sample.question.startswith("The video ends with the picture that the question calls")
    assert "Which ray in [image 1] is drawn wrongly?\nA. the first" in sample.question
    write_picture(folder / "images" / "validation_Optics_4.png", "red")
    sample = get_task("video-mmmu", path).load("Adaptation/validation_Optics_4")
    assert sample.question.startswith("Which ray in [image 1]")
    assert len(sample.images) == 1
    write_json(path, {"Adaptation": {"0": MMMU | {"image": "a.png"}}})
    with pytest.raises(ValueError, match=r"Adaptation/0, field 'image': there is no a\.png"):
        get_task("video-mmmu", path)


def test_videos_of_mlvu_lie_beside_the_folder_of_its_files(clip: Path) -> None:
    folder = put(clip, "video/3_ego/ego_9.mp4", "video/4_count/ego_9.mp4")
    path = write_json(folder / "json" / "3_ego.json", [MLVU, MLVU])
    task = get_task("mlvu", path)
    assert task.sample_ids() == ["3_ego/0", "3_ego/1"]
    sample = task.load("3_ego/1")
    assert (sample.answer, sample.category) == ("C", "ego")
    assert sample.video == folder / "video" / "3_ego" / "ego_9.mp4"
    assert task.is_right(sample, "In the sink.")
    assert not task.is_right(sample, "In the pan")
    write_json(folder / "json" / "4_count.json", [MLVU])
    assert get_task("mlvu", folder / "json").sample_ids() == ["3_ego/0", "3_ego/1", "4_count/0"]


def test_open_questions_of_mlvu_are_left_out_with_a_note(clip: Path) -> None:
    folder = put(clip, "video/3_ego/ego_9.mp4")
    open_question = {name: MLVU[name] for name in ("video", "duration", "question", "answer")}
    choice = write_json(folder / "json" / "3_ego.json", [MLVU, open_question, MLVU])
    summaries = write_json(folder / "json" / "9_summary.json", [open_question] * 2)
    task = get_task("mlvu", choice.parent)
    assert isinstance(task, FileTask)
    assert task.sample_ids() == ["3_ego/0", "3_ego/2"]
    assert task.load("3_ego/2").answer == "C"
    assert task.notes == [
        "1 of its rows is left out: no candidates, and MLVU's paper has such answers judged by a "
        "model (3_ego.json)",
        "2 of its rows are left out: no candidates, and MLVU's paper has such answers judged by a "
        "model (9_summary.json)",
    ]
    with pytest.raises(ValueError, match=r"9_summary\.json has no samples: 2 of its rows are left"):
        get_task("mlvu", summaries)


def test_a_video_that_is_missing_costs_its_samples(clip: Path) -> None:
    folder = put(clip, "video/3_ego/ego_9.mp4")
    rows = [MLVU, MLVU | {"video": "x.mp4"}, MLVU | {"answer": "In the well"}]
    task = get_task("mlvu", write_json(folder / "json" / "3_ego.json", rows))
    assert isinstance(task, FileTask)
    assert task.sample_ids() == ["3_ego/0", "3_ego.json item 2", "3_ego.json item 3"]
    assert task.load("3_ego/0").answer == "C"
    with pytest.raises(ValueError, match=r"3_ego\.json, item 3, field 'answer': 'In the well' is"):
        task.load("3_ego.json item 3")
    assert "2 of 3 rows cannot be read" in task.notes[0]
    assert "item 2, field 'video': there is no video/3_ego/x.mp4" in task.notes[0]


def test_answers_of_mlvu_are_texts_even_if_they_look_like_letters(clip: Path) -> None:
    folder = put(clip, "ego_9.mp4")
    item = MLVU | {"candidates": ["B", "A", "C"], "answer": "A"}
    assert get_task("mlvu", write_json(folder / "x.json", [item])).load("x/0").answer == "B"


def test_video_holmes(clip: Path) -> None:
    folder = put(clip, "videos/k3VqT9xPz0A.mp4")
    task = get_task("video-holmes", write_json(folder / "test_Video-Holmes.json", [HOLMES]))
    sample = task.load("k3VqT9xPz0A/2")
    assert (sample.answer, sample.category) == ("A", "TCI")
    assert HOLMES["Explanation"] not in sample.question
    assert task.is_right(sample, "<think>B?</think><answer>A</answer>")


def test_video_r1(clip: Path) -> None:
    folder = put(clip, "NeXT-QA/rowing_4.mp4")
    write_picture(folder / "a.png", "red")
    number = R1 | {"problem_id": 32, "problem_type": "numerical", "data_type": "image"}
    number |= {"path": "a.png", "solution": "<answer>4.5</answer>", "options": []}
    text = R1 | {"problem_id": 33, "problem_type": "OCR", "solution": "<answer> MIRA </answer>"}
    task = get_task("video-r1", write_json(folder / "r1.json", [R1, number, text]))
    chosen, counted, read = map(task.load, ("31", "32", "33"))
    assert chosen.question.splitlines()[:2] == ["How many oars are in the water?", "A. Two"]
    assert chosen.video is not None
    assert [each.parts.kind for each in (chosen, counted, read)] == ["options", "number", "ocr"]  # type: ignore[union-attr]
    assert task.is_right(chosen, "Four")
    assert (len(counted.images), counted.video) == (1, None)
    assert task.is_right(counted, "4.50")
    assert not task.is_right(counted, "4.6")
    assert task.is_right(read, "mira")


def test_an_invalid_video_is_refused_when_it_is_loaded(clip: Path) -> None:
    folder = put(clip, "videos/k3VqT9xPz0A.mp4")
    (folder / "videos" / "k3VqT9xPz0A.mp4").write_text("no video")
    task = get_task("video-holmes", write_json(folder / "a.json", [HOLMES]))
    with pytest.raises(ValueError, match=r"a\.json, item 1, field 'video': .*not a video that can"):
        task.load("k3VqT9xPz0A/2")


@pytest.mark.parametrize(
    ("name", "item", "changes", "error"),
    [
        ("mmvu", MMVU, {"question_type": "essay"}, "field 'question_type': 'essay' is not"),
        ("mmvu", MMVU, {"video": "videos/Physics/9.mp4"}, "field 'video': there is no videos/Phys"),
        ("mmvu", MMVU, {"video": "../x.mp4"}, "field 'video': '../x.mp4' leads out of"),
        ("mmvu", MMVU, {"choices": ["a"]}, "field 'choices': an object of options is needed"),
        ("mmvu", MMVU, {"choices": {"A": "x", "C": "y"}}, "field 'choices': the keys must be A, B"),
        ("mmvu", MMVU, {"choices": {"A": "x"}}, "field 'choices': two or more are needed, not 1"),
        ("mmvu", MMVU, {"answer": "D"}, "field 'answer': 'D' is none of the options"),
        ("video-mmmu", MMMU, {"options": "a"}, "field 'options': a list of texts is needed"),
        ("video-mmmu", MMMU, {"answer": "Z"}, "field 'answer': 'Z' is none of the options"),
        ("video-mmmu", MMMU, {"id": "other"}, "field 'id': there is no other.mp4 and no videos/"),
        ("mlvu", MLVU, {"candidates": []}, "field 'candidates': two or more are needed, not 0"),
        ("mlvu", MLVU, {"answer": "In the well"}, "field 'answer': 'In the well' is none of"),
        ("mlvu", MLVU, {"video": "x.mp4"}, "field 'video': there is no video/a/x.mp4 and no"),
        ("video-holmes", HOLMES, {"Options": {}}, "field 'Options': two or more are needed"),
        ("video-holmes", HOLMES, {"video ID": "../x"}, "field 'video ID': .* leads out of"),
        ("video-holmes", HOLMES, {"video ID": None}, "field 'video ID': a text is needed"),
        ("video-r1", R1, {"problem_type": "regression"}, "field 'problem_type': 'regression' is"),
        ("video-r1", R1, {"data_type": "sound"}, "field 'data_type': 'sound' is neither"),
        ("video-r1", R1, {"solution": "B"}, "field 'solution': there is no <answer>"),
        ("video-r1", R1, {"solution": "<answer>D</answer>"}, "field 'solution': 'D' is none of"),
        ("video-r1", R1, {"path": "/x.mp4"}, "field 'path': '/x.mp4' leads out of"),
    ],
)  # fmt: skip
def test_malformed_items_are_refused(
    clip: Path, name: str, item: dict[str, object], changes: dict[str, object], error: str
) -> None:
    folder = put(
        clip, "videos/Physics/3.mp4", "validation_Optics_4.mp4", "ego_9.mp4",
        "k3VqT9xPz0A.mp4", "NeXT-QA/rowing_4.mp4",
    )  # fmt: skip
    path = write_json(folder / "a.json", [item | changes])
    with pytest.raises(ValueError, match=rf"a\.json, item \d, {error}"):
        get_task(name, path)
