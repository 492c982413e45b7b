"""Clients of a gateway: the stock Triton client, naming a model by what it is for."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import tritonclient.grpc as triton
from locust import User, constant_pacing, task
from locust.env import Environment

from loadtest.payloads import DIGITS, any_image
from loadtest.report import ANSWERS

MODEL = "digits"
_TIMEOUT_SECONDS = 10.0
_NUMBERS = itertools.count()


def images_of(environment: Environment) -> Path:
    """The file that `--images` names."""
    options = environment.parsed_options
    return options.images if options is not None else DIGITS


class WrongAnswer(Exception):
    """The gateway answered with status OK, but not with what was asked for."""


class DigitsUser(User):
    """Sends one image at a time, ten a second: most by the route, some by a stage or an alias."""

    wait_time = constant_pacing(0.1)

    def on_start(self) -> None:
        """One connection for each user, as with separate client machines."""
        address = (self.host or "127.0.0.1:8001").removeprefix("grpc://").removeprefix("http://")
        # Channels with equal arguments share a connection; a number of its own keeps this user's apart.
        arguments = [("stagegate.user", next(_NUMBERS))]
        self.client = triton.InferenceServerClient(address, channel_args=arguments)
        self.choose = random.Random()  # noqa: S311 - which image, not a secret

    def on_stop(self) -> None:
        """Closes the connection."""
        self.client.close()

    @task(6)
    def by_route(self) -> None:
        """No reference: the model's route decides."""
        self.ask("")

    @task(2)
    def by_production(self) -> None:
        """By stage."""
        self.ask("production")

    @task(1)
    def by_staging(self) -> None:
        """By another stage."""
        self.ask("staging")

    @task(1)
    def by_challenger(self) -> None:
        """By alias."""
        self.ask("@challenger")

    def ask(self, reference: str) -> None:
        """Sends one image and tells locust how it went."""
        image = any_image(images_of(self.environment), self.choose)
        name = f"{MODEL} {reference}".strip()
        problem: Exception | None = None
        size = 0
        started = time.perf_counter()
        try:
            answer = self.client.infer(
                MODEL, [image.tensor], model_version=reference, client_timeout=_TIMEOUT_SECONDS
            )
            size = answer.get_response().ByteSize()
            problem = _check(answer, image.digit)
        except triton.InferenceServerException as error:
            problem = error
        self.environment.events.request.fire(
            request_type="ModelInfer",
            name=name,
            response_time=(time.perf_counter() - started) * 1_000,
            response_length=size,
            exception=problem,
            context={},
        )


def _check(answer: triton.InferResult, digit: int) -> WrongAnswer | None:
    """Counts the answer under its version; a digit read wrong is the model's matter, not a failure."""
    response = answer.get_response()
    label = answer.as_numpy("label")
    if response.model_name != MODEL or not response.model_version:
        return WrongAnswer(f"answered as {response.model_name!r} version {response.model_version!r}")
    if label is None or label.size != 1:
        return WrongAnswer("the answer has no label")
    ANSWERS.add(response.model_version, right=int(label.reshape(-1)[0]) == digit)
    return None
