"""One clip on a page: its video, its strips, what is to be said about it. Each clip's media stands there once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from musubi_ext.evaluation.report.media import Media, media_of
from musubi_ext.evaluation.report.parts import safe

BUDGET = 14_000_000  # bytes of pictures and videos on one page


class Cards:
    """Draws clips as they are asked for, full the first time, small with a link afterwards."""

    def __init__(
        self,
        videos: Mapping[str, Path],
        providers: Mapping[str, str],
        truths: Mapping[str, Path] | None = None,
        prefix: str = "clip",
        budget: int = BUDGET,
    ) -> None:
        """`providers`: who found each clip's subject; `prefix` tells the ids of two sets on one page apart."""
        self._videos, self._providers, self._truths = videos, providers, truths or {}
        self._prefix, self.left = prefix, budget
        self._media: dict[str, tuple[str, Media]] = {}

    @property
    def ids(self) -> dict[str, str]:
        """Anchor of each clip drawn so far."""
        return {name: anchor for name, (anchor, _) in self._media.items()}

    def card(self, name: str, heading: str, *, level: int = 4) -> str:
        """The card of a clip; `heading` is safe HTML that stands before its name."""
        title = f"<h{level}>{heading}{safe(name)}</h{level}>"
        if name in self._media:
            anchor, media = self._media[name]
            thumb = f'<img class="thumb" alt="a frame of {safe(name)}" src="{media.thumb}">' if media.thumb else ""
            return f'<article class="card shown">{title}{thumb}<p><a href="#{anchor}">See it above</a></p></article>'
        anchor, media = f"{self._prefix}-{len(self._media) + 1}", self._draw(name)
        self._media[name] = anchor, media
        self.left -= media.bytes
        return f'<article class="card shown" id="{anchor}">{title}{_body(name, media)}{_notes(media)}</article>'

    def _draw(self, name: str) -> Media:
        if name not in self._videos:
            return Media(notes=["no video was given for this clip"])
        if self.left <= 0:
            return Media(notes=["no pictures: the page is as large as it may get"])
        return media_of(self._videos[name], masks=self._providers.get(name, ""), truth=self._truths.get(name))


def _body(name: str, media: Media) -> str:
    figures = [_figure(f"Frames of {name}", media.frames, "frames " + ", ".join(map(str, media.indices)))]
    figures.append(_figure(f"Mask and track of {name}", media.overlay, media.overlay_caption))
    figures.append(_figure(f"Optical flow of {name}", media.flow, media.flow_caption, '<span class="wheel"></span> '))
    width, height = media.size
    video = (
        f'<video controls loop muted playsinline preload="metadata" width="{max(width, 160)}" '
        f'height="{round(height * max(width, 160) / width)}" aria-label="Video {safe(name)}" '
        f'poster="{media.thumb}" src="{media.video}"></video>'
        if media.video
        else ""
    )
    if not media.frames:
        return ""
    shape = "" if video and height > width else " wide"  # a tall video stands beside its strips, a wide one above them
    return f'<div class="media{shape}">{video}<div>{"".join(figures)}</div></div>'


def _figure(label: str, picture: str, caption: str, before: str = "") -> str:
    if not picture and not caption:
        return ""
    image = (
        f'<div class="strip" role="region" tabindex="0" aria-label="{safe(label)}">'
        f'<img alt="{safe(label)}" src="{picture}"></div>'
        if picture
        else ""
    )
    return f"<figure>{image}<figcaption>{before if picture else ''}{safe(caption)}</figcaption></figure>"


def _notes(media: Media) -> str:
    return "".join(f'<p class="faint">{safe(note, 400)}</p>' for note in media.notes)
