"""Objects of requests: how strictly fields are checked, and fields that change nothing.

A field that is null is one that was not given. Fields of OpenAI's and of other servers that change
nothing, whatever they say, are accepted. A setting that this server does not have is accepted with
the value that leaves everything as it is (`min_p` of 0), and refused with any other.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

MAX_FIELDS = 128
"""Most fields of an object: of more, not each is checked."""

Json = dict[str, Any]


def _number(value: Any) -> Any:
    """Take 0.0 as 0 and 1.0 as 1, as clients write them; true is no number."""
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return int(value) if value in (0, 1) else value


def _boolean(value: Any) -> Any:
    """Refuse 0 and 1, which are no booleans."""
    if not isinstance(value, bool):
        raise ValueError("this is true or false")
    return value


Zero = Annotated[Literal[0], BeforeValidator(_number)]
One = Annotated[Literal[1], BeforeValidator(_number)]
No = Annotated[Literal[False], BeforeValidator(_boolean)]
Yes = Annotated[Literal[True], BeforeValidator(_boolean)]
Empty = Annotated[Json, Field(max_length=0)]
EmptyList = Annotated[list[Any], Field(max_length=0)]


def _describe_nulls(schema: Json) -> None:
    """Say in a model's JSON schema where null stands for a field that was not given."""
    for name, field in schema["properties"].items():
        nullable = {"type": "null"} in field.get("anyOf", ())
        if name not in schema.get("required", ()) and not nullable:
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    if schema.get("additionalProperties") is False:
        schema["additionalProperties"] = {"type": "null"}


class Lenient(BaseModel):
    """An object that may have more fields, which are ignored."""

    model_config = ConfigDict(json_schema_extra=_describe_nulls)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > MAX_FIELDS:
            raise ValueError(
                f"an object has {len(value)} fields; {MAX_FIELDS} are enough for all that there are"
            )
        return {name: field for name, field in value.items() if field is not None}


class Strict(Lenient):
    """An object in which an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class Marked(Strict):
    """An object that clients may mark for a cache of prompts. This server's needs no marks."""

    cache_control: Json | None = None
    prompt_cache_breakpoint: Json | None = None


class Unique(Marked):
    """A medium that clients may give an id for a cache (vLLM's). This server's goes by content."""

    uuid: str | None = None


class NeutralSettings(Strict):
    """Settings of a request that change nothing: any value of some, one value of the others."""

    user: str | None = None
    safety_identifier: str | None = None
    metadata: Json | None = None
    store: StrictBool | None = None
    service_tier: str | None = None
    cache_control: Json | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Json | None = None
    request_id: str | None = None
    cache_salt: str | None = None

    frequency_penalty: Zero = 0
    presence_penalty: Zero = 0
    logit_bias: Empty = {}
    modalities: list[Literal["text"]] = []
    verbosity: Literal["medium"] = "medium"
    functions: EmptyList = []
    # vLLM's, and other servers'.
    min_p: Zero = 0
    min_tokens: Zero = 0
    priority: Zero = 0
    length_penalty: One = 1
    typical_p: One = 1
    best_of: One = 1
    stop_token_ids: EmptyList = []
    allowed_token_ids: EmptyList = []
    bad_words: EmptyList = []
    documents: EmptyList = []
    chat_template_kwargs: Empty = {}
    mm_processor_kwargs: Empty = {}
    echo: No = False
    ignore_eos: No = False
    use_beam_search: No = False
    include_stop_str_in_output: No = False
    add_special_tokens: No = False
    continue_final_message: No = False
    return_token_ids: No = False
    return_tokens_as_token_ids: No = False
    add_generation_prompt: Yes = True
    detokenize: Yes = True
    include_reasoning: Yes = True
    skip_special_tokens: Yes = True
    spaces_between_special_tokens: Yes = True
