"""Each row of docs/openai.md is backed by a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from openai_calls import CASES

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "openai.md"

BACKED: dict[str, list[str]] = {
    "`chat.completions.create(…)`, whole or with `stream=True`": [
        "a whole answer",
        "many options",
        "a stream",
        "a stream that is left",
    ],
    "Attributes of results": ["fields that nobody knows", "chunks with fields that nobody knows"],
    "`model_dump()`, `model_dump_json()`, `to_dict()`, `to_json()`, `model_copy()`, `model_extra`": [
        "annotations and audio and a function call",
        "test_objects_are_copied_and_pickled",
        "test_objects_can_be_changed",
        "methods of old",
    ],
    "Results as messages": [
        "an answer in a conversation",
        "parts of an answer in a conversation",
        "what was parsed in a conversation",
        "test_objects_of_openais_library_can_be_sent",
    ],
    "Tools": ["a tool call", "a streamed tool call", "a custom tool call", "functions of old"],
    "`chat.completions.parse(…)`": ["a type", "arguments of a type", "arguments of strict tools", "several of a type"],
    "`chat.completions.stream(…)`": [
        "the events of a text",
        "the events of a type",
        "the events of strict tools",
        "the end of a stream",
        "test_the_state_of_a_stream_can_be_kept_by_hand",
    ],
    "`embeddings.create(…)`": ["embeddings", "embeddings as numbers", "embeddings in base64"],
    "`models.list()`, `models.retrieve(…)`": ["models", "a model"],
    "`with_raw_response`": ["the answer as it came", "a stream as it came", "test_answers_as_they_came"],
    "`with_options(…)`, `copy(…)`": [
        "a client with other options",
        "another host",
        "test_settings_can_be_read_and_changed",
    ],
    "`timeout=`, `max_retries=`, `default_headers=`, `default_query=`, `organization=`, `project=`": [
        "settings of a client",
        "headers of a call",
        "parameters of the URL",
        "fields of the body that have no keyword",
        "a retry",
        "a server that is silent",
    ],
    "`api_key=` as a function": ["test_a_key_may_be_a_function"],
    "`NOT_GIVEN`, `omit`, None": ["arguments that are not given", "none as an option"],
    "Errors": ["too many requests", "a request that is refused", "a conflict", "a server that is not there"],
    "`LengthFinishReasonError`, `ContentFilterFinishReasonError`": [
        "a type that is cut",
        "a streamed type that is filtered",
        "test_answers_that_cannot_be_read_are_output_errors",
    ],
    "`openai.chat.completions.create(…)`": ["test_the_module_is_a_client"],
    "`timeout=30`": ["test_what_timeouts_mean", "test_one_deadline_for_the_whole_call"],
    "A call that ran out of time": ["test_one_deadline_for_the_whole_call", "test_silence_is_not_asked_again"],
    "`error.message`, `str(error)`": ["test_errors_are_of_both_libraries"],
    "`except APIError`, `except APIStatusError`": ["test_some_errors_are_of_more_classes"],
    "`error.response`, `with_raw_response`": ["a stream that is refused", "test_answers_as_they_came"],
    "`close()`": ["test_a_closed_client_asks_again"],
    '`extra_headers={"Authorization": omit}`': ["test_arguments_that_cannot_be_used", "headers in another case"],
    "A redirect": ["test_a_redirect_is_not_followed"],
    '`base_url="https://host"`': ["test_the_next_host_is_asked", "test_a_bare_host_gets_v1"],
    "An option that is not known": ["an option that there is not", "test_arguments_that_cannot_be_used"],
    "Schemas of types": ["test_types_that_openais_library_cannot_read"],
    "`http_client=`, `webhook_secret=` …": ["test_settings_that_cannot_be_used"],
    "Other endpoints, `with_streaming_response`, `AzureOpenAI`": [
        "test_other_endpoints_name_the_remedy",
        "test_the_module_has_no_other_names",
    ],
    "`from openai.types.chat import …`": ["test_objects_of_openais_library_can_be_sent"],
    "A server that is slow or never stops": ["test_one_deadline_for_the_whole_call"],
    "A stream that breaks": ["a stream that is cut", "test_errors_have_the_text_that_had_come"],
    "A stream that stops with neither a finish reason nor `[DONE]`": ["test_a_stream_without_its_end_is_an_error"],
    "`stream.cancel()`": ["test_a_stream_is_cancelled_from_another_thread"],
    "This service's errors": ["a balance that is too low", "test_errors_are_of_both_libraries"],
    "A quota that is spent, a request that is refused": ["test_what_is_refused_for_good_is_not_asked_again"],
    "An error, a page or other JSON with status 200": [
        "test_an_error_in_a_good_answer_is_an_error",
        "test_what_is_no_answer_is_an_error",
    ],
    "JSON that is broken": ["test_broken_json_in_a_stream_is_a_protocol_error"],
    "Servers that do not stream": ["test_a_server_that_does_not_stream_is_read"],
    "Tool calls without an index": ["test_tool_calls_without_numbers_are_put_together"],
    "`base_url=[…]`, `model=[…]`": ["test_the_next_host_is_asked", "test_the_next_model_is_asked"],
    "`client=Client(…)`": ["test_a_client_of_ones_own"],
    "trio": ["test_trio_runs_the_async_client"],
    "Dataclasses, `list[int]` … as `response_format`": ["test_types_that_openais_library_cannot_read"],
    "`import chatanywhere.openai`": ["test_the_import_is_cheap", "test_chats_need_no_pydantic"],
}
"""The rows by their first cells, and what shows them: functions of test_openai_face.py, and calls that are compared."""


def test_every_row_is_backed() -> None:
    """No row says what nothing shows, and nothing is shown by a test that there is not."""
    rows = re.findall(r"(?m)^\| (.+?) \| ", DOCUMENT.read_text(encoding="utf-8"))
    assert [row for row in rows if row != "in your program"] == list(BACKED)
    tree = ast.parse((TESTS / "test_openai_face.py").read_text(encoding="utf-8"))
    known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | set(CASES)
    assert {name for names in BACKED.values() for name in names} - known == set()
