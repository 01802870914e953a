"""The example for FastAPI under uvicorn."""

from __future__ import annotations

import pytest
from web.browser import DRIP, EXAMPLES, SOON, Browser, WebProgram, begins, ends, running

from chatanywhere.testing import Fault, LoopbackServer


class TestFastAPI(WebProgram):
    early_failure = (200, 'event: end\ndata: " [the answer broke off]"\n\n')

    @pytest.fixture
    def command(self) -> list[str]:
        """How the example is run."""
        where = ["--app-dir", str(EXAMPLES), "--port", "0", "--timeout-graceful-shutdown", "1"]
        return ["uvicorn", *where, "fastapi_app:app"]

    @pytest.mark.parametrize("after", [0, 3])
    def test_a_browser_that_leaves_a_silent_model_ends_the_call(self, command: list[str], after: int) -> None:
        """The server tells at once that the browser has gone, whatever the model does."""
        with (
            LoopbackServer(lambda _: DRIP, faults=[Fault.timeout(after=after)]) as upstream,
            running(command, upstream) as server,
        ):
            with Browser(server.port) as browser:
                if after:
                    browser.read(after)
                assert begins(upstream)
            assert ends(upstream, SOON)
