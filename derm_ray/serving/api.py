"""HTTP in, predictions out; it knows neither Ray nor torch."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, File, Form, UploadFile
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from derm_ray import RESEARCH_NOTICE, __version__
from derm_ray.data.preprocessing import PairPixels, Preprocessing, pixels_from_bytes
from derm_ray.errors import ImageError
from derm_ray.serving.guard import Guard, Limits
from derm_ray.serving.problems import PROBLEM_JSON, ApiError, add_problem_handlers, to_problem
from derm_ray.serving.schemas import (
    MAX_PAIR_ID,
    Answers,
    Model,
    Pair,
    PairAnswer,
    Pairs,
    Score,
    State,
    to_score,
)
from derm_ray.serving.tokens import Tokens
from derm_ray.vocabulary import Modality, Prediction, label_set

MAX_IMAGE_BYTES = 25_000_000
MAX_BODY_BYTES = 2 * MAX_IMAGE_BYTES + 100_000

Scorer = Callable[[PairPixels], Awaitable[Prediction]]
Mapper = Callable[[PairPixels], Awaitable[dict[Modality, bytes]]]
Ready = Callable[[], Awaitable[None]]
Upload = Annotated[UploadFile | None, File(description="An encoded image, such as JPEG or PNG.")]
_PROBLEMS = {
    400: "the request is not one that can be answered",
    401: "no token, or an unknown one",
    408: "the body came too slowly",
    413: "too many bytes",
    422: "a field, or an image, cannot be used",
    429: "too many requests of this token; see Retry-After",
    503: "busy, or not ready; see Retry-After",
}


def create_app(
    score_pair: Scorer,
    map_pair: Mapper,
    ready: Ready,
    model: Model,
    spec: Preprocessing,
    *,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        score_pair: answers for one preprocessed pair.
        map_pair: returns the overlays (PNG) of one preprocessed pair; called for models with maps only.
        ready: returns once the model can answer, or raises :class:`ApiError`.
        model: what ``GET /v1/model`` tells.
        spec: how images are prepared.
        tokens: who may call; ``None`` lets everybody in.
        limits: what one caller may do.
    """
    app = FastAPI(
        title="derm_ray",
        version=__version__,
        description=RESEARCH_NOTICE,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    labels = label_set(model.label_set)
    problems: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for status, text in _PROBLEMS.items()
    }

    async def answer(pair: Pair, *, saliency: bool) -> Score:
        images = [pair.clinical, pair.dermoscopy]
        if images == [None, None]:
            raise ApiError(400, "no_image", "Send an image in 'clinical', in 'dermoscopy', or in both.")
        if any(image is not None and len(image) > MAX_IMAGE_BYTES for image in images):
            raise ApiError(413, "too_large", f"An image may hold {MAX_IMAGE_BYTES // 1_000_000} MB at most.")
        if saliency and not model.saliency:
            raise ApiError(400, "no_saliency", "This model has no maps: its head is not cam_bp.")
        try:
            pixels = await run_in_threadpool(pixels_from_bytes, pair.clinical, pair.dermoscopy, spec)
        except ImageError as error:
            raise ApiError(422, str(error.code), error.message) from error
        prediction = await score_pair(pixels)
        overlays = await map_pair(pixels) if saliency else None
        return to_score(prediction, pair.pair_id, labels, model.model_digest, flags=pixels.flags, overlays=overlays)

    @app.get("/healthz")
    async def healthz() -> State:
        """Tell that the endpoint answers."""
        return State(status="ok")

    @app.get("/readyz", responses={503: problems[503]})
    async def readyz() -> State:
        """Tell that the model answers as well."""
        await ready()
        return State(status="ready")

    # The guard asks for the token; this tells the schema that it does.
    bearer = HTTPBearer(auto_error=False, description="See `derm-ray token`.")
    versioned = APIRouter(prefix="/v1", dependencies=[Depends(bearer)] if tokens else [])

    @versioned.get("/model", responses={status: problems[status] for status in (401, 429)})
    async def get_model() -> Model:
        """Tell which model answers, and how good it was."""
        return model

    @versioned.post("/score", responses=problems)
    async def score(
        clinical: Upload = None,
        dermoscopy: Upload = None,
        pair_id: Annotated[str | None, Form(max_length=MAX_PAIR_ID)] = None,
        saliency: Annotated[Literal["none", "png"], Form(description="png adds overlays.")] = "none",
    ) -> Score:
        """Score one lesion: a clinical photo, a dermoscopy image, or better both."""
        pair = Pair.model_construct(pair_id=pair_id, clinical=await _read(clinical), dermoscopy=await _read(dermoscopy))
        return await answer(pair, saliency=saliency == "png")

    @versioned.post("/score-batch", responses=problems)
    async def score_batch(batch: Pairs) -> Answers:
        """Score several lesions; a bad image is the problem of its own pair only."""

        async def one(pair: Pair) -> PairAnswer:
            try:
                return PairAnswer(pair_id=pair.pair_id, score=await answer(pair, saliency=False), problem=None)
            except ApiError as error:
                return PairAnswer(pair_id=pair.pair_id, score=None, problem=to_problem(error))

        return Answers(answers=await asyncio.gather(*map(one, batch.pairs)))

    app.include_router(versioned)
    add_problem_handlers(app)
    app.add_middleware(Guard, tokens=tokens, limits=limits or Limits(MAX_BODY_BYTES), model_digest=model.model_digest)
    return app


async def _read(upload: UploadFile | None) -> bytes | None:
    return await upload.read(MAX_IMAGE_BYTES + 1) if upload is not None else None
