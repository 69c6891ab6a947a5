"""The processor of a checkpoint, also from files that are old, incomplete or missing.

What a checkpoint itself says about images and texts is kept as far as it can be read, and the rest
is taken from another checkpoint: for a policy, from its base. Each substitution is logged once, as
a warning that names the file.
"""

import logging
from dataclasses import replace
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.exceptions import SecurityError
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from visreplay.replay_core.chat_template import fill_template
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.compatibility import (
    check_alike,
    image_processing,
    pixel_budgets,
)
from visreplay.replay_core.errors import CheckpointError, ConfigError
from visreplay.replay_core.template_meter import TemplateLimitError

logger = logging.getLogger(__name__)

PARTS = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "video_processor": AutoVideoProcessor,
}

WAY_OUT = "name the processor to use for both models (`processor`, or --processor)"

VOCABULARY_WAY_OUT = "use the base's processor for both models (`processor`, or --processor)"


def choose_processor(
    source: Checkpoint, policy: Checkpoint, base: Checkpoint | None, config: Any, *, compare: bool
) -> Any:
    """Load the processor of a pair, and check that it also makes the inputs of the base.

    Args:
        source: The checkpoint whose processor is used.
        policy: The policy. Without a base, another source takes from it what it lacks.
        base: The base. The source takes from it what it lacks, and the other way round.
        config: The configuration of both models.
        compare: Whether the base must prepare images as the source does. The vocabularies must be
            alike in any case.

    Raises:
        CheckpointError: a part of the processor, or the chat template, is nowhere.
        PairMismatchError: the processors make other inputs.
    """
    if base is None:
        return _completed(source, policy, config)
    theirs = _completed(base, source, config)
    ours = read_processor(source, config, theirs, base.name)
    check_alike(ours.tokenizer.get_vocab(), theirs.tokenizer.get_vocab(), VOCABULARY_WAY_OUT)
    if compare:
        check_alike(image_processing(ours), image_processing(theirs), WAY_OUT)
        _note_budgets(ours, theirs, (policy.name, base.name))
    return ours


def _completed(source: Checkpoint, helper: Checkpoint, config: Any) -> Any:
    """Load the processor of a checkpoint, with what it lacks from another checkpoint."""
    try:
        return read_processor(source, config)
    except CheckpointError:
        if source == helper:
            raise
        return read_processor(source, config, read_processor(helper, config), helper.name)


def read_processor(source: Checkpoint, config: Any, other: Any = None, other_name: str = "") -> Any:
    """Load the processor of a checkpoint.

    Args:
        source: The checkpoint.
        config: The configuration of the model.
        other: The processor that replaces what cannot be read; None refuses instead.
        other_name: The name of the checkpoint that `other` belongs to.

    Returns:
        A processor with a tokenizer, an image processor and a chat template.

    Raises:
        CheckpointError: a part, or the chat template, is neither here nor in `other`; or images
            are prepared for models of another kind.
    """
    try:
        processor = source.auto(AutoProcessor, "the processor")
        with source.reading("the processor"):
            _check_tokenizer(processor.tokenizer, source)
    except CheckpointError as error:
        processor = _mended(source, config, other, other_name, error)
    with source.reading(_file(source)):
        _check_kind(processor.image_processor, source, config)
        for kind in ("image_processor", "video_processor"):
            _name_edges(getattr(processor, kind, None))
        _check_budget(processor, config)
    _complete_template(processor, source, other, other_name)
    return processor


def _mended(
    source: Checkpoint, config: Any, other: Any, other_name: str, error: CheckpointError
) -> Any:
    """Build a processor from the parts that can be read, and parts of another one.

    A part is looked up by the type of the model here, and not by the name of a class in its file,
    which may be one that transformers no longer has.
    """
    known: Any = PROCESSOR_MAPPING.get(type(config), None)
    kind = known if other is None else type(other)
    if kind is None:
        raise error
    parts: dict[str, Any] = {}
    replaced: dict[str, list[str]] = {}
    for name in kind.get_attributes():
        try:
            part = name.replace("_", " ")
            parts[name] = source.auto(PARTS[name], f"the {part}", **_known(name, config))
            if name == "tokenizer":
                _check_tokenizer(parts[name], source)
        except CheckpointError as reason:
            if other is None:
                raise CheckpointError(
                    f"cannot read the {part} of {source.name!r} ({_state(source, name)}): {WAY_OUT}"
                ) from reason
            parts[name] = getattr(other, name)
            replaced.setdefault(_state(source, name), []).append(part)
    try:
        settings, _ = source.read(kind.get_processor_dict, PROCESSOR_NAME)
    except CheckpointError:
        settings = None
        logger.warning("%s: its processor_config.json or chat template cannot be read", source.name)
    for state, names in replaced.items():
        logger.warning(
            "%s: %s; the %s of %s %s used",
            source.name,
            state,
            " and ".join(names),
            other_name,
            "are" if len(names) > 1 else "is",
        )
    if not replaced and settings is not None:
        logger.warning(
            "%s: %s is of an older release; its values are used with %s",
            source.name,
            _file(source),
            type(parts["image_processor"]).__name__,
        )
    return kind.from_args_and_dict(list(parts.values()), settings or {})


def _known(part: str, config: Any) -> dict[str, Any]:
    return {} if part == "tokenizer" else {"config": config}


def _file(source: Checkpoint) -> str:
    """Return the name of the file that tells how images are prepared."""
    names = (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
    return next((name for name in names if source.has(name)), IMAGE_PROCESSOR_NAME)


def _state(source: Checkpoint, part: str) -> str:
    """Tell what is wrong with the files of a part."""
    if part == "tokenizer":
        return "the files of its tokenizer are missing or cannot be read"
    file = _file(source)
    return f"{file} cannot be read" if source.has(file) else f"there is no {file}"


def _check_tokenizer(tokenizer: Any, source: Checkpoint) -> None:
    """Refuse the empty tokenizer that transformers makes where there are no files for one.

    Raises:
        CheckpointError: no file has a vocabulary.
    """
    if not any(source.has(file) for file in tokenizer.vocab_files_names.values()):
        raise CheckpointError(f"{source.name} has no tokenizer")


def _check_kind(images: Any, source: Checkpoint, config: Any) -> None:
    """Refuse an image processor without the patches that a model of the Qwen kind takes.

    Raises:
        CheckpointError: the file names a class of another family.
    """
    merges = hasattr(getattr(config, "vision_config", None), "spatial_merge_size")
    if merges and not hasattr(images, "merge_size"):
        raise CheckpointError(
            f"{_file(source)} of {source.name!r} names a {type(images).__name__}, which does not "
            f"prepare images for a {config.model_type} model: {WAY_OUT}"
        )


def _name_edges(part: Any) -> None:
    """Give a pixel budget the names that Qwen's processors read: shortest and longest edge.

    Some trainers saved `size` as `{"min_pixels", "max_pixels"}`, which transformers keeps beside
    edges that are then not set.
    """
    if not hasattr(part, "merge_size"):
        return
    size, usual = part.size, type(part).size
    least = size.shortest_edge or size.min_pixels or usual["shortest_edge"]
    most = size.longest_edge or size.max_pixels or usual["longest_edge"]
    for pixels in (least, most):
        if not isinstance(pixels, int) or pixels < 1:
            raise ValueError(f"its pixel budget is {least!r} to {most!r}, but must be of numbers")
    part.size = replace(
        size, shortest_edge=least, longest_edge=most, min_pixels=None, max_pixels=None
    )


def _check_budget(processor: Any, config: Any) -> None:
    """Refuse a pixel budget whose smallest image has more visual tokens than a context can hold.

    Raises:
        ValueError: there is no image that fits.
    """
    budget = pixel_budgets(processor).get("image")
    if budget is None:
        return
    images, positions = processor.image_processor, config.get_text_config().max_position_embeddings
    tokens = budget[0] // (images.patch_size * images.merge_size) ** 2
    if tokens > positions:
        raise ValueError(
            f"its smallest image, of {budget[0]:,} pixels, has {tokens:,} visual tokens, but the "
            f"model has {positions:,} positions"
        )


def _complete_template(processor: Any, source: Checkpoint, other: Any, other_name: str) -> None:
    """Take the chat template of the tokenizer, or else of another processor, if there is none.

    A template that has no place for an image, as models of text alone have, is none.

    Raises:
        CheckpointError: there is none at all.
    """
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    try:
        if _shows_images(processor):
            return
    except (TemplateLimitError, TemplateSyntaxError, SecurityError) as error:
        raise CheckpointError(
            f"{source.name!r} has a chat template that is not rendered here: {error}. Give it "
            "another one (chat_template.jinja)"
        ) from error
    lack = (
        "no chat template" if processor.chat_template is None else "a chat template for text alone"
    )
    if other is None:
        raise CheckpointError(
            f"{source.name!r} has {lack} (chat_template.jinja, chat_template.json, or "
            f"`chat_template` in tokenizer_config.json): add one, or {WAY_OUT}"
        )
    logger.warning("%s has %s; that of %s is used", source.name, lack, other_name)
    processor.chat_template = other.chat_template


def _shows_images(processor: Any) -> bool:
    """Tell whether the chat template has a place for an image."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ""}]}
    try:
        return processor.image_token in fill_template(processor, [turn])
    except (TemplateLimitError, TemplateSyntaxError, SecurityError):
        raise
    except Exception:  # a template is a program, and raises what it likes
        return False


def _note_budgets(policy: Any, base: Any, names: tuple[str, str]) -> None:
    """Log that two processors differ in their pixel budgets.

    A budget says how large the pictures of the training were, and not what model it was.
    """
    ours, theirs = pixel_budgets(policy), pixel_budgets(base)
    notes: dict[str, list[str]] = {}
    for kind in ours.keys() & theirs.keys():
        if ours[kind] != theirs[kind]:
            budgets = [
                f"{least:,} to {most:,} pixels" for least, most in (ours[kind], theirs[kind])
            ]
            note = f"of {budgets[0]}, and {names[1]} of {budgets[1]}: the policy's budget is used"
            notes.setdefault(note, []).append(f"{kind}s")
    for note, kinds in notes.items():
        logger.warning("%s prepares %s %s", names[0], " and ".join(sorted(kinds)), note)


def set_pixel_budget(
    processor: Any, min_pixels: int | None = None, max_pixels: int | None = None
) -> None:
    """Set the least and the largest number of pixels of an image.

    Args:
        processor: The processor, which is changed.
        min_pixels: Smaller images are enlarged to it; None leaves the checkpoint's.
        max_pixels: Larger images are shrunk to it; None leaves the checkpoint's.

    Raises:
        ConfigError: the processor has no budget, or the two do not go together.
    """
    if min_pixels is None and max_pixels is None:
        return
    budget = pixel_budgets(processor).get("image")
    if budget is None:
        raise ConfigError(
            f"min_pixels and max_pixels are {min_pixels} and {max_pixels}, but a "
            f"{type(processor.image_processor).__name__} has no pixel budget: leave them out"
        )
    images = processor.image_processor
    least = budget[0] if min_pixels is None else min_pixels
    most = budget[1] if max_pixels is None else max_pixels
    token = (images.patch_size * images.merge_size) ** 2
    if not 0 < least <= most or most < token:
        raise ConfigError(
            f"the pixel budget is {least} to {most}, but must be 1 or more, rise, and hold one "
            f"visual token of {token} pixels: change min_pixels or max_pixels"
        )
    images.size = replace(images.size, shortest_edge=least, longest_edge=most)
