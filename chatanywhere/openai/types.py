"""The objects that answers are made of, by the names that OpenAI's library has for them where they are free.

What may be None is so where a service does not tell it. All have been in OpenAI's library 3.57, in this order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from .model import BaseModel

T = TypeVar("T")


class FunctionOfCall(BaseModel, called="Function"):
    """What is called, and its arguments, a JSON text."""

    arguments: str
    name: str


class CustomOfCall(BaseModel, called="Custom"):
    """A custom tool that is called, and its input, any text."""

    input: str
    name: str


class ChatCompletionMessageFunctionToolCall(BaseModel, tag="function"):
    """A function that the model asks the program to run."""

    id: str
    function: FunctionOfCall
    type: str


class ChatCompletionMessageCustomToolCall(BaseModel, tag="custom"):
    """A custom tool that the model asks the program to run."""

    id: str
    custom: CustomOfCall
    type: str


class FunctionCall(BaseModel):
    """What tool calls were before there were tools."""

    arguments: str
    name: str


class AnnotationURLCitation(BaseModel):
    """Where a fact is from."""

    end_index: int
    start_index: int
    title: str
    url: str


class Annotation(BaseModel):
    """A note on a part of the text."""

    type: str
    url_citation: AnnotationURLCitation


class ChatCompletionAudio(BaseModel):
    """A spoken answer; `data` is in Base64."""

    id: str
    data: str
    expires_at: int
    transcript: str


class ChatCompletionMessage(BaseModel):
    """What the model says. Can be put into a list of messages as it is."""

    content: str | None
    refusal: str | None
    role: str
    annotations: list[Annotation] | None
    audio: ChatCompletionAudio | None
    function_call: FunctionCall | None
    tool_calls: list[ChatCompletionMessageFunctionToolCall | ChatCompletionMessageCustomToolCall] | None


class TopLogprob(BaseModel):
    """A token that might have stood there, and the logarithm of its probability."""

    token: str
    bytes: list[int] | None
    logprob: float


class ChatCompletionTokenLogprob(BaseModel):
    """A token of the answer, and the logarithm of its probability."""

    token: str
    bytes: list[int] | None
    logprob: float
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The log probabilities of the tokens of a choice."""

    content: list[ChatCompletionTokenLogprob] | None
    refusal: list[ChatCompletionTokenLogprob] | None


class CompletionTokensDetails(BaseModel):
    """What the tokens of the answer were spent on."""

    accepted_prediction_tokens: int | None
    audio_tokens: int | None
    reasoning_tokens: int | None
    rejected_prediction_tokens: int | None
    text_tokens: int | None


class PromptTokensDetails(BaseModel):
    """What the tokens of the prompt were."""

    audio_tokens: int | None
    cache_write_tokens: int | None
    cached_tokens: int | None
    image_tokens: int | None
    text_tokens: int | None


class CompletionUsage(BaseModel):
    """The tokens that the call cost."""

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails | None
    prompt_tokens_details: PromptTokensDetails | None


class ModerationResult(BaseModel):
    """What a text was found to be."""

    categories: dict[str, bool]
    category_applied_input_types: dict[str, list[str]]
    category_scores: dict[str, float]
    flagged: bool
    model: str
    type: str


class ModerationResults(BaseModel, tag="moderation_results"):
    """What texts were found to be."""

    model: str
    results: list[ModerationResult]
    type: str


class ModerationError(BaseModel, tag="error"):
    """Why texts were not looked at."""

    code: str
    message: str
    type: str


class Moderation(BaseModel):
    """What prompt and answer were found to be."""

    input: ModerationResults | ModerationError
    output: ModerationResults | ModerationError


class ChatCompletionChoice(BaseModel, called="Choice"):
    """One of the answers that were asked for by `n`."""

    finish_reason: str
    index: int
    logprobs: ChoiceLogprobs | None
    message: ChatCompletionMessage


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    choices: list[ChatCompletionChoice]
    created: int
    model: str
    object: str
    metadata: dict[str, str] | None
    moderation: Moderation | None
    service_tier: str | None
    system_fingerprint: str | None
    usage: CompletionUsage | None


# What comes in pieces ----------------------------------------------------------------------------------------


class ChoiceDeltaFunctionCall(BaseModel):
    """A piece of a `FunctionCall`."""

    arguments: str | None
    name: str | None


class ChoiceDeltaToolCallFunction(BaseModel):
    """A piece of what is called."""

    arguments: str | None
    name: str | None


class ChoiceDeltaToolCall(BaseModel):
    """A piece of the tool call with this number."""

    index: int
    id: str | None
    function: ChoiceDeltaToolCallFunction | None
    type: str | None


class ChoiceDeltaAudio(BaseModel):
    """A piece of a spoken answer."""

    id: str | None
    data: str | None
    expires_at: int | None
    transcript: str | None


class ChoiceDelta(BaseModel):
    """A piece of a message."""

    audio: ChoiceDeltaAudio | None
    content: str | None
    function_call: ChoiceDeltaFunctionCall | None
    refusal: str | None
    role: str | None
    tool_calls: list[ChoiceDeltaToolCall] | None


class ChunkChoice(BaseModel, called="Choice"):
    """A piece of one of the answers."""

    delta: ChoiceDelta
    index: int
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None


class ChatCompletionChunk(BaseModel):
    """A piece of an answer that is streamed."""

    id: str
    choices: list[ChunkChoice]
    created: int
    model: str
    object: str
    moderation: Moderation | None
    obfuscation: str | None
    service_tier: str | None
    system_fingerprint: str | None
    usage: CompletionUsage | None


# What is read by types of the caller's -----------------------------------------------------------------------


class ParsedFunction(FunctionOfCall):
    """What is called, and its arguments as an instance of what the tool was made of, or as a dict."""

    parsed_arguments: Any | None


class ParsedFunctionToolCall(ChatCompletionMessageFunctionToolCall, tag="function"):
    """A function that the model asks the program to run."""

    function: ParsedFunction


class ParsedChatCompletionMessage(ChatCompletionMessage, Generic[T]):
    """What the model says, and what it comes to."""

    tool_calls: list[ParsedFunctionToolCall] | None  # type: ignore[assignment]  # as in OpenAI's library
    parsed: T | None


class ParsedChoice(ChatCompletionChoice, Generic[T]):
    """One of the answers that were asked for by `n`."""

    message: ParsedChatCompletionMessage[T]


class ParsedChatCompletion(ChatCompletion, Generic[T]):
    """A whole answer, and the instances of the type that was asked for."""

    choices: list[ParsedChoice[T]]  # type: ignore[assignment]  # as in OpenAI's library


# Other endpoints ---------------------------------------------------------------------------------------------


class Embedding(BaseModel):
    """The vector of a text."""

    embedding: list[float]
    index: int
    object: str


class EmbeddingUsage(BaseModel, called="Usage"):
    """The tokens that embeddings cost."""

    prompt_tokens: int
    total_tokens: int


class CreateEmbeddingResponse(BaseModel):
    """The vectors of some texts."""

    data: list[Embedding]
    model: str
    object: str
    usage: EmbeddingUsage


class ListedModel(BaseModel, called="Model"):
    """A model that the service has."""

    id: str
    created: int
    object: str
    owned_by: str
    shutdown_date: str | None


class ModelPage(BaseModel, called="SyncPage[Model]"):
    """The models that the service has: all of them, for there are no further pages."""

    data: list[ListedModel]
    object: str

    def __iter__(self) -> Iterator[ListedModel]:
        return iter(self.data or ())

    async def __aiter__(self) -> AsyncIterator[ListedModel]:
        for each in self:
            yield each

    def has_next_page(self) -> bool:
        """Return False."""
        return False
