"""The web app of a class: enter a code, accept the consent text, judge pairs; and the staff's pages.

The pages are made on the server and work without a script. What a request asks for stands in plain functions of a
:class:`Visit`, which run in threads, since they wait for the database; :func:`create_app` joins them to addresses.

Each form carries a keyed hash of the session's token, so that no other site can send it. A visitor who has entered no
code has a token too, of which the store knows nothing. The store keeps a hash of the others.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_utils.annotation import codes
from rlhf_utils.annotation.database import StoreError, StoreFullError
from rlhf_utils.annotation.monitoring import progress
from rlhf_utils.annotation.store import (
    TEXT_LENGTH,
    AlreadyJudgedError,
    NotAssignedError,
    RequestError,
    Session,
    Store,
    TooManyAttemptsError,
    UnknownCodeError,
    UnknownPairError,
    check_text,
)

HERE = Path(__file__).parent
COOKIE = "annotate_session"
BODY_BYTES = 512 * 1024  #: of a request; the staff's texts are the longest
DRAIN_BYTES = 4 * 1024 * 1024  #: of a longer one are still read, since a client that is cut off sees no answer
CODE_LENGTH = 64  #: as it is typed, in characters
FIELD_LENGTHS = {
    **{"form": 64, "code": CODE_LENGTH, "pair": 64, "token": 64, "choice": 4, "seconds": 32, "accept": 3, "is_open": 3},
    **{"title": 200, "instructions": TEXT_LENGTH, "consent": TEXT_LENGTH},
}  #: in characters; other fields are not taken
REFRESH_SECONDS = 10  #: between two looks of the staff's page at the server
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
STATUS = {
    UnknownPairError: 404,
    NotAssignedError: 409,
    AlreadyJudgedError: 409,
    UnknownCodeError: 403,
    TooManyAttemptsError: 429,
    StoreFullError: 507,
    StoreError: 503,
}
TITLES = {
    400: "This request can't be read",
    401: "A code is needed",
    403: "This isn't allowed",
    404: "There is nothing here",
    405: "This isn't possible",
    409: "This was not kept",
    413: "This is too long",
    415: "This request can't be read",
    429: "Too many wrong codes",
    500: "Something broke",
    503: "Not kept yet",
    507: "Not kept yet",
}
MESSAGES = {404: "This address has no page.", 405: "This address doesn't take such a request."}  #: for Starlette's own
STAY = "Nothing is lost: keep this page open and try again in a moment."

templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
templates.filters["fixed"] = lambda value, digits=0: "–" if value is None else f"{value:.{digits}f}"


@dataclass
class Visit:
    """One request, who sent it and what its form says.

    Attributes:
        store: of the study.
        staff_hash: of the staff's code.
        request: as Starlette has it.
        form: the fields of a form, empty for a page that is asked for.
        token: of the visitor's session, or a new one.
    """

    store: Store
    staff_hash: str
    request: Request
    form: dict[str, str]
    token: str

    def page(self, name: str, status: int = 200, **values: object) -> Response:
        """A page from a template, under the study's title."""
        study = values.pop("study", None) or self.store.study()
        text = templates.get_template(name).render(
            form_token=codes.form_token(self.token), title=study.title, study=study, **values
        )
        return HTMLResponse(text, status)

    def go(self, address: str) -> Response:
        """Another page of ours, asked for anew, so that a reload sends no form twice."""
        return RedirectResponse(address, 303)

    def session(self) -> Session | None:
        """Who is there."""
        return self.store.session(self.token)

    def annotator(self, consented: bool = False) -> int:
        """The annotator who is there.

        Args:
            consented: whether the consent text must have been accepted.

        Raises:
            HTTPException: nobody, or the session has ended.
        """
        session = self.session()
        if session is None or session.annotator is None:
            raise HTTPException(401, "Your session has ended. Enter your code again, and you go on where you stopped.")
        if consented and not session.consented:
            raise HTTPException(403, "Accept the consent text first.")
        return session.annotator

    def check_staff(self) -> None:
        """Let nobody but staff go on.

        Raises:
            HTTPException: somebody else is there, or the session has ended.
        """
        session = self.session()
        if session is None or session.annotator is not None:
            raise HTTPException(401, "This page is for staff. Enter the staff's code.")

    def check_form(self) -> None:
        """Let no form of another site go on.

        Raises:
            HTTPException: it doesn't carry what ours do.
        """
        if not hmac.compare_digest(codes.form_token(self.token).encode(), self.form.get("form", "").encode()):
            raise HTTPException(403, "The form is too old or came from another page. Load the page again.")

    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else "unknown"


# -- pages of annotators


def show_start(visit: Visit) -> Response:
    """The form for the code."""
    session = visit.session()
    if session is not None:
        return visit.go("/staff" if session.annotator is None else "/judge")
    return visit.page("code.html", problem=None, staff=False)


def enter(visit: Visit) -> Response:
    """Begin an annotator's session."""
    visit.check_form()
    try:
        annotator = visit.store.enter(visit.form.get("code", ""), visit.address())
    except (UnknownCodeError, TooManyAttemptsError) as error:
        return visit.page("code.html", STATUS[type(error)], problem=str(error), staff=False)
    visit.token = visit.store.open_session(annotator)
    return visit.go("/judge")


def show_consent(visit: Visit) -> Response:
    """The consent text."""
    account = visit.store.account(visit.annotator())
    return visit.page("consent.html", account=account, problem=None)


def consent(visit: Visit) -> Response:
    """Note that the consent text was accepted."""
    annotator = visit.annotator()
    visit.check_form()
    if visit.form.get("accept") != "yes":
        account = visit.store.account(annotator)
        problem = "Without your consent no pair is shown. You may close this page."
        return visit.page("consent.html", 400, account=account, problem=problem)
    visit.store.consent(annotator)
    return visit.go("/judge")


def show_pair(visit: Visit) -> Response:
    """The pair to judge, or thanks if there is none."""
    annotator = visit.annotator()
    account = visit.store.account(annotator)
    if not account.consented:
        return visit.go("/consent")
    showing, study = visit.store.next_pair(annotator), visit.store.study()
    if showing is None:
        return visit.page("done.html", account=account, study=study)
    return visit.page("judge.html", account=account, study=study, showing=showing)


def judge(visit: Visit) -> Response:
    """Keep a judgement; if the store can't, its page keeps it, and sends it again."""
    form = visit.form
    try:
        annotator = visit.annotator(consented=True)
        visit.check_form()
        visit.store.submit(
            annotator, form.get("pair", ""), form.get("token", ""), form.get("choice", ""), seconds=_seconds(form)
        )
    except StoreError as error:
        return _try_again(visit, error, {name: form.get(name, "") for name in ("pair", "token", "choice", "seconds")})
    return visit.go("/judge")


def _seconds(form: dict[str, str]) -> float | None:
    """What the page measured; nothing without a script.

    Raises:
        HTTPException: it is no time.
    """
    if not form.get("seconds"):
        return None
    try:
        seconds = float(form["seconds"])
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise HTTPException(400, "The field seconds is not a time.")
    return seconds


def undo(visit: Visit) -> Response:
    """Take the last judgement back."""
    annotator = visit.annotator()
    visit.check_form()
    visit.store.undo(annotator, visit.form.get("pair", ""))
    return visit.go("/judge")


def leave(visit: Visit) -> Response:
    """End the session."""
    visit.check_form()
    visit.store.close_session(visit.token)
    visit.token = codes.new_token()
    return visit.go("/")


# -- pages of staff


def show_staff(visit: Visit) -> Response:
    """How the study goes, or the form for the staff's code."""
    session = visit.session()
    if session is None or session.annotator is not None:
        return visit.page("code.html", problem=None, staff=True)
    return visit.page("staff.html", progress=progress(visit.store), seconds=REFRESH_SECONDS)


def enter_staff(visit: Visit) -> Response:
    """Begin a session of staff."""
    visit.check_form()
    try:
        visit.store.enter_staff(visit.form.get("code", ""), visit.staff_hash, visit.address())
    except (UnknownCodeError, TooManyAttemptsError) as error:
        return visit.page("code.html", STATUS[type(error)], problem=str(error), staff=True)
    visit.token = visit.store.open_session(None)
    return visit.go("/staff")


def show_study(visit: Visit) -> Response:
    """The form for the study's texts."""
    visit.check_staff()
    study = visit.store.study()
    return visit.page("study.html", study=study, fields=asdict(study), problem=None)


def change_study(visit: Visit) -> Response:
    """Keep the study's texts, and whether it is open."""
    visit.check_staff()
    visit.check_form()
    study = visit.store.study()
    # A browser sends a text's line ends as two characters.
    texts = {name: visit.form.get(name, "").replace("\r\n", "\n") for name in ("title", "instructions", "consent")}
    fields = {**texts, "is_open": visit.form.get("is_open") == "yes"}
    try:
        visit.store.change_study(replace(study, **fields))
    except ValueError as error:
        return visit.page("study.html", 400, study=study, fields=fields, problem=f"Not changed: {error}.")
    return visit.go("/staff")


def export(visit: Visit) -> Response:
    """The judgements as a file of preference records."""
    from rlhf_utils.annotation.records import export_records  # brings torch along

    visit.check_staff()
    records = export_records(visit.store, checks=visit.request.query_params.get("checks") == "1")
    text = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    disposition = {"content-disposition": 'attachment; filename="preferences.jsonl"'}
    return Response(text, media_type="application/x-ndjson", headers=disposition)


# -- what all of them need


Handler = Callable[[Visit], Response]


def _try_again(visit: Visit, error: StoreError, fields: dict[str, str]) -> Response:
    values = {"error": str(error), "stay": STAY, "fields": fields, "form_token": codes.form_token(visit.token)}
    text = templates.get_template("again.html").render(title=TITLES[STATUS[type(error)]], **values)
    return HTMLResponse(text, STATUS[type(error)], {"retry-after": "5"})


def _endpoint(store: Store, staff_hash: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler as Starlette wants it: its form read, run in a thread, the cookie set where the token is new."""

    async def answer(request: Request) -> Response:
        form = await read_form(request) if request.method == "POST" else {}
        known = request.cookies.get(COOKIE, "")[:64]
        visit = Visit(store, staff_hash, request, form, known or codes.new_token())
        response = await run_in_threadpool(handler, visit)
        if visit.token != known:
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, visit.token, httponly=True, samesite="lax", secure=secure)
        return response

    return answer


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, bounded in number and length.

    Args:
        request: whose body is read.

    Raises:
        HTTPException: 413 for too much, 415 for another kind of body, 400 for one that can't be read.
    """
    body, length = bytearray(), 0
    async for part in request.stream():
        length += len(part)
        if length <= BODY_BYTES:
            body += part
        elif length > DRAIN_BYTES:
            break
    if length > BODY_BYTES:
        raise HTTPException(413, f"The request has more than {BODY_BYTES // 1024} KiB.")
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Send a form.")
    try:
        fields = parse_qsl(
            body.decode("utf8"), keep_blank_values=True, max_num_fields=len(FIELD_LENGTHS), errors="strict"
        )
    except ValueError:
        raise HTTPException(400, "The form isn't UTF-8, or has too many fields.") from None
    for name, value in fields:
        if name not in FIELD_LENGTHS:
            raise HTTPException(400, "The form has a field that is unknown here.")
        # A browser sends a line end as two characters, and counts it as one.
        if len(value.replace("\r\n", "\n")) > FIELD_LENGTHS[name]:
            raise HTTPException(413, f"The field {name} is too long: at most {FIELD_LENGTHS[name]} characters.")
        try:
            check_text(name, value, len(value))
        except ValueError as error:
            raise HTTPException(400, f"{error}.") from None
    return dict(fields)


def _problem(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    title = TITLES.get(status, "This didn't work")
    back = "/staff" if request.url.path.startswith("/staff") else "/"
    text = templates.get_template("problem.html").render(title=title, message=message, back=back)
    return HTMLResponse(text, status, headers)


async def _on_http(request: Request, error: HTTPException) -> Response:
    own = error.detail != HTTPStatus(error.status_code).phrase
    message = error.detail if own else MESSAGES.get(error.status_code, error.detail)
    return _problem(request, error.status_code, message, error.headers)


async def _on_request(request: Request, error: RequestError) -> Response:
    return _problem(request, STATUS.get(type(error), 400), str(error))


async def _on_store(request: Request, error: StoreError) -> Response:
    return _problem(request, STATUS[type(error)], f"{error} {STAY}", {"retry-after": "5"})


async def _on_bug(request: Request, _: Exception) -> Response:
    return _problem(request, 500, "This is a mistake of the program. What you judged before is kept.")


class WithHeaders:
    """Adds the security headers to every answer.

    Args:
        app: that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                more = {name.encode(): value.encode() for name, value in HEADERS.items()}
                message = {**message, "headers": [*message["headers"], *(more.items() - headers.items())]}
            await send(message)

        await self.app(scope, receive, send_more)


def create_app(store: Store, staff_code: str) -> ASGIApp:
    """The web app of a study.

    Args:
        store: of the study; it is safe to share.
        staff_code: opens the staff's pages.
    """

    def get(path: str, handler: Handler) -> Route:
        return Route(path, _endpoint(store, codes.code_hash(staff_code), handler), methods=["GET"])

    def post(path: str, handler: Handler) -> Route:
        return Route(path, _endpoint(store, codes.code_hash(staff_code), handler), methods=["POST"])

    routes = [
        *(get("/", show_start), post("/enter", enter), post("/leave", leave)),
        *(get("/consent", show_consent), post("/consent", consent)),
        *(get("/judge", show_pair), post("/judge", judge), post("/undo", undo)),
        *(get("/staff", show_staff), post("/staff/enter", enter_staff), get("/staff/export", export)),
        *(get("/staff/study", show_study), post("/staff/study", change_study)),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers = {HTTPException: _on_http, RequestError: _on_request, StoreError: _on_store, Exception: _on_bug}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # such a redirect would repeat whatever host a request names
    return WithHeaders(app)
