"""The HTTP API, independent of Ray and torch."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.security import HTTPBearer

from derm_ray import RESEARCH_NOTICE, __version__
from derm_ray.serving.body import MAX_IMAGE_BYTES
from derm_ray.serving.contract import MODEL_DIGEST
from derm_ray.serving.middleware import CHARGE, AdmissionMiddleware, Checks
from derm_ray.serving.page import add_page
from derm_ray.serving.problems import PROBLEM_JSON, ApiError, add_problem_handlers, to_problem
from derm_ray.serving.schemas import (
    MAX_PAIR_ID,
    BatchResult,
    Model,
    Pair,
    PairResult,
    Pairs,
    Score,
    State,
)
from derm_ray.serving.strict import StrictRoute, json_object

if TYPE_CHECKING:
    from derm_ray.serving.model import ServedModel

Upload = Annotated[UploadFile | None, File(description="An encoded image, such as JPEG or PNG.")]
MAX_PATIENT = 10_000
PATIENT = (
    'Patient data, a JSON object such as {"age": 45, "sex": "female"} with the fields that the model names in '
    "`patient_fields`. Leave out what is unknown."
)
_PROBLEMS = {
    400: "the request is invalid",
    401: "the token is missing or unknown",
    408: "the body arrived too slowly",
    413: "too many bytes",
    422: "a field or an image is invalid",
    429: "too many requests with this token; see Retry-After",
    503: "busy or not ready; see Retry-After",
}


def create_app(model: "ServedModel", checks: Checks | None = None) -> FastAPI:
    """Return the application.

    Args:
        model: scores pairs and controls admission.
        checks: of every request; ``None`` accepts everyone.
    """
    checks = checks or Checks()
    app = FastAPI(
        title="derm_ray",
        version=__version__,
        description=RESEARCH_NOTICE,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    problems: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for status, text in _PROBLEMS.items()
    }

    digest = model.description.model_digest

    async def answer(pair: Pair, *, saliency: bool) -> Score:
        images = [pair.clinical, pair.dermoscopy]
        if images == [None, None]:
            raise ApiError(400, "no_image", "Send an image in 'clinical', in 'dermoscopy', or in both.")
        if any(image is not None and len(image) > MAX_IMAGE_BYTES for image in images):
            raise ApiError(413, "too_large", f"An image may have at most {MAX_IMAGE_BYTES // 1_000_000} MB.")
        try:
            return await model.score(pair.clinical, pair.dermoscopy, saliency, pair.patient or {})
        except ApiError as error:
            error.headers = {**(error.headers or {}), MODEL_DIGEST: digest}
            raise

    public = APIRouter(route_class=StrictRoute)

    @public.head("/healthz", include_in_schema=False)
    @public.get("/healthz", responses={422: problems[422]})
    async def healthz() -> State:
        """Return whether the endpoint is alive."""
        return State(status="ok")

    @public.head("/readyz", include_in_schema=False)
    @public.get("/readyz", responses={status: problems[status] for status in (422, 503)})
    async def readyz() -> State:
        """Return whether the model is ready."""
        return State(status="ready")

    # The middleware checks the token; this only documents it in the schema.
    bearer = HTTPBearer(auto_error=False, description="See `derm-ray token`.")
    versioned = APIRouter(
        prefix="/v1", dependencies=[Depends(bearer)] if checks.tokens else [], route_class=StrictRoute
    )

    @versioned.head("/model", include_in_schema=False)
    @versioned.get("/model", responses={status: problems[status] for status in (401, 422, 429, 503)})
    async def get_model(response: Response) -> Model:
        """Describe the model, with its validation metrics."""
        response.headers[MODEL_DIGEST] = digest
        return model.description

    @versioned.post("/score", responses=problems)
    async def score(
        response: Response,
        clinical: Upload = None,
        dermoscopy: Upload = None,
        pair_id: Annotated[str | None, Form(max_length=MAX_PAIR_ID)] = None,
        saliency: Annotated[Literal["none", "png"], Form(description="png adds overlays.")] = "none",
        patient: Annotated[str | None, Form(max_length=MAX_PATIENT, description=PATIENT)] = None,
    ) -> Score:
        """Score one lesion from a clinical photo, a dermoscopy image, or both (recommended)."""
        values = json_object("patient", patient) if patient is not None else None
        photo, image = await _read(clinical), await _read(dermoscopy)
        pair = Pair.model_construct(pair_id=pair_id, clinical=photo, dermoscopy=image, patient=values)
        result = await answer(pair, saliency=saliency == "png")
        response.headers[MODEL_DIGEST] = digest
        return result.model_copy(update={"pair_id": pair_id})

    @versioned.post("/score-batch", responses=problems)
    async def score_batch(request: Request, batch: Pairs) -> BatchResult:
        """Score several lesions; an invalid image affects its own pair only."""
        if (charge := getattr(request.state, CHARGE, None)) is not None:
            charge(len(batch.pairs) - 1)
        refused: list[ApiError] = []

        async def one(pair: Pair) -> PairResult:
            try:
                result = await answer(pair, saliency=False)
            except ApiError as error:
                refused.append(error)
                return PairResult(pair_id=pair.pair_id, score=None, problem=to_problem(error))
            score = result.model_copy(update={"pair_id": pair.pair_id})
            return PairResult(pair_id=pair.pair_id, score=score, problem=None)

        results = await asyncio.gather(*map(one, batch.pairs))
        if len(refused) == len(results) and all(error.status_code == 503 for error in refused):
            raise refused[0]  # with its Retry-After, since none of them was begun
        return BatchResult(results=results)

    app.include_router(public)
    app.include_router(versioned)
    add_page(app)
    add_problem_handlers(app)
    app.add_middleware(AdmissionMiddleware, checks=checks, admission=model.admission)
    return app


async def _read(upload: UploadFile | None) -> bytes | None:
    return await upload.read(MAX_IMAGE_BYTES + 1) if upload is not None else None
