"""Which result a request asks about: found in one place for all routes of results and images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query, Request

from rsna_e2e.service.audit import Action
from rsna_e2e.service.catalogue import find_result
from rsna_e2e.service.context import Context, Reader, StudyKey, audited, context_of, not_found
from rsna_e2e.service.folders import result_folder

Content = Annotated[str, Query(pattern="^([0-9a-f]{16})?$")]
_FOR_EVER = "private, max-age=31536000, immutable"  # a year, RFC 9111's customary longest


@dataclass(frozen=True, slots=True)
class ShownResult:
    """The result that a request asks about: its content and model, where it lies, and headers by which answers are
    kept, if the address says of which content and by which model they are, as those never change."""

    content: str
    model: str
    folder: Path
    caching: dict[str, str]
    context: Context
    note: Callable[[Action], None]


def shown_result(
    request: Request, caller: Reader, study: StudyKey, model: Content = "", content: Content = ""
) -> ShownResult:
    """Find the newest result of a study that counts, or that of a model or content. Raises ProblemError."""
    context = context_of(request)
    found = find_result(context.database, study, content=content, model=model)
    if found is None:
        raise not_found("result")
    return ShownResult(
        *found,
        folder=result_folder(context.settings, study, *found),
        caching={"Cache-Control": _FOR_EVER} if content and model else {},
        context=context,
        note=lambda action: audited(context, request, caller, action, study),
    )


Shown = Annotated[ShownResult, Depends(shown_result)]
