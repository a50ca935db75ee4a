"""A newcomer's walk through the studio, in Chromium: from a folder of clips to two trained models, compared.

    python -m benchmarks.studio_walk FOLDER --out OUT

Everything is done with the page alone, as `docs/studio.md` tells it, and each step leaves a picture in OUT/pictures.
It goes on where an earlier call was stopped: what lies in OUT/project is not made again. `--looks` then takes every
panel at 1280 and at 390 pixels, light and dark; `--docs` writes what was taken of both into the documentation.

    python -m benchmarks.studio_walk --out OUT --readme docs/images/studio.webp

makes the picture of README: a shipped model's videos of one prompt at several numbers of steps, and its scores.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from PIL import Image

from kinolab.studio import jobs
from kinolab.studio.project import Project
from tests.studio.browsing import Watched, chromium, served

STEPS = {"autoencoder": 250, "video": 150}
"""Steps of the trainings here, where a minute or two is to be enough."""
FINISHED = re.compile(r"^\s*finished")
PATIENCE = 1_800_000
"""Milliseconds that a job may take."""


class Walk:
    """The page of a project, and the pictures of it."""

    def __init__(self, page: Any, pictures: Path, steps: dict[str, int]) -> None:
        self.page, self.pictures, self.steps = page, pictures, steps
        pictures.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()

    def look(self, name: str, *, whole: bool = False) -> None:
        """A picture of the page as it is; `whole`: all of it, and not the window alone."""
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=whole)
        print(f"{time.monotonic() - self.began:6.0f} s  {name}", flush=True)

    def panel(self, name: str) -> None:
        """Open a panel."""
        self.page.get_by_role("navigation", name="Panels").get_by_role("link", name=name).click()

    def done(self, job: Any) -> None:
        """Wait until a job that the page shows has ended well."""
        from playwright.sync_api import expect

        expect(job).to_have_attribute("data-state", "done", timeout=PATIENCE)


def caption_of(path: Path) -> str:
    """What a clip's name says of it."""
    return re.sub(r"[-_]+", " ", path.stem.partition("_")[2] or path.stem)


def clips(walk: Walk, files: list[Path]) -> None:
    """Drop the clips in, check them, cut one into its scenes, caption all, and make the copies."""
    from playwright.sync_api import expect

    page = walk.page
    expect(page.get_by_text("No clips yet")).to_be_visible()
    walk.look("01-empty")
    page.get_by_label("Add clips").locator("input").first.set_input_files(files)
    expect(page.locator("[data-clip]")).to_have_count(len(files), timeout=PATIENCE)
    page.get_by_label("As a recipe needs them").select_option("first-autoencoder")
    expect(page.get_by_label("Frames", exact=True)).to_have_value("16", timeout=PATIENCE)
    expect(page.locator(".badge", has_text="window").first).to_be_visible(timeout=PATIENCE)
    walk.look("02-clips")
    cuts = next((path for path in files if "scene" in path.name), files[0])
    page.locator(f"[data-clip='{cuts.name}']").click()
    expect(page.locator("[data-editor] video")).to_have_js_property("readyState", 4, timeout=PATIENCE)
    page.get_by_role("button", name="Find scenes").click()
    expect(page.get_by_text(re.compile(r"\d+ scenes|One scene"))).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(2500)  # the pictures of the scenes
    page.get_by_label("Choose what is kept").check()
    walk.look("03-scenes")
    page.keyboard.press("Escape")
    page.locator("[data-clip]").first.click()
    for _ in files:
        editor = page.locator("[data-editor]")
        name = editor.get_attribute("data-editor")
        editor.get_by_label("Caption").fill(caption_of(Path(name)))
        editor.get_by_label("Caption").press("Control+Enter")
        page.wait_for_timeout(300)
    walk.look("04-captions")
    page.keyboard.press("Escape")
    page.get_by_text("cut, cropped or left out").click()
    walk.look("05-cut")
    page.get_by_role("button", name="Cut into cut/").click()
    page.keyboard.press("q")
    walk.done(page.locator("#queue [data-job*='data-cut']").first)
    walk.look("06-jobs")
    page.keyboard.press("q")


def curated(walk: Walk) -> None:
    """Score the clips, with some thresholds, and look at the clips nearest to one."""
    from playwright.sync_api import expect

    page = walk.page
    walk.panel("Clips")
    page.get_by_role("button", name="Curate", exact=True).click()
    form = page.locator("form[data-form='data curate']")
    for name in ("no stills", "no shaking", "no text", "no doubles"):
        form.get_by_role("button", name=name).click()
    form.get_by_role("button", name="Curate").click()
    found = page.locator("[data-curation='curated']")
    expect(found).to_be_visible(timeout=PATIENCE)
    walk.done(page.locator("[data-curate] [data-job*='data-curate']"))
    found.get_by_text("The clips nearest to text").click()
    page.set_viewport_size({"width": 1280, "height": 1800})  # all of it in sight, so that its videos are drawn
    page.wait_for_timeout(3000)
    found.screenshot(path=walk.pictures / "06-curated.png")
    print(f"{time.monotonic() - walk.began:6.0f} s  06-curated", flush=True)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("button", name="Close", exact=True).click()


def fill(walk: Walk, field: str, value: str) -> None:
    """Set a field of a recipe."""
    box = walk.page.locator(f"[id='field-{field}']")
    if not box.count():
        walk.page.get_by_label("Search settings").fill(field)
    box.fill(value)
    box.blur()
    walk.page.get_by_label("Search settings").fill("")


def begin(walk: Walk, recipe: str, name: str | None = None) -> None:
    """A new training from a recipe."""
    from playwright.sync_api import expect

    page = walk.page
    walk.panel("Train")
    page.get_by_role("button", name="New training").click()
    page.get_by_label("Recipe", exact=True).select_option(recipe)
    expect(page.locator(f"[data-recipe='{recipe}']")).to_be_visible(timeout=PATIENCE)
    if name is not None:
        page.get_by_label("Name of the run").fill(name)


def train(walk: Walk, project: Path) -> None:
    """Train an autoencoder, make latents, and train two video models that differ in one setting."""
    from playwright.sync_api import expect

    page = walk.page
    runs = project / "runs"
    if not (runs / "first-autoencoder" / "model").exists():
        begin(walk, "first-autoencoder")
        fill(walk, "data.path", "cut")
        fill(walk, "training.steps", str(walk.steps["autoencoder"]))
        fill(walk, "training.sample_every", str(walk.steps["autoencoder"] // 5))
        walk.look("07-autoencoder")
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator(".plot").first).to_be_visible(timeout=PATIENCE)
        expect(page.locator(".samples video").first).to_be_visible(timeout=PATIENCE)
        walk.look("08-training")
        expect(page.locator("main .badge", has_text=FINISHED)).to_be_visible(timeout=PATIENCE)
        walk.look("09-trained", whole=True)
    for name, depth in (("deep", 4), ("shallow", 1)):
        if (runs / name / "model").exists():
            continue
        begin(walk, "first-video", name)
        if page.locator("[data-need=latents]").count():
            page.get_by_role("button", name="Make the latents").click()
            form = page.locator("[data-form=encode]")
            form.locator("[data-option=data] select").select_option("cut")
            form.locator("[data-option=fps] input").fill("8")
            walk.look("10-latents")
            form.get_by_role("button", name="Make the latents").click()
            expect(page.locator("[data-needs]")).to_have_count(0, timeout=PATIENCE)
        fill(walk, "training.steps", str(walk.steps["video"]))
        fill(walk, "training.batch_size", "4")
        fill(walk, "training.sample_every", str(walk.steps["video"] // 3))
        fill(walk, "samples.prompts", "[white swan, hiker]")
        fill(walk, "denoiser.depth", str(depth))
        walk.look(f"11-{name}")
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator(".plot").first).to_be_visible(timeout=PATIENCE)
        expect(page.locator("main .badge", has_text=FINISHED)).to_be_visible(timeout=PATIENCE)
    walk.look("12-run", whole=True)


def sample(walk: Walk, project: Path) -> None:
    """The same prompts and seeds from both models."""
    from playwright.sync_api import expect

    page = walk.page
    walk.panel("Sample")
    for count, name in enumerate(("deep", "shallow")):
        if len(list((project / "samples").glob("*.mp4"))) > 2 * count:
            continue
        page.get_by_role("tab", name="Generate").click()
        page.get_by_label("Model", exact=True).select_option(f"runs/{name}")
        page.get_by_label("Prompt, one on each line").fill("white swan\nhiker")
        page.locator("[data-option=seed] input").fill("1")
        page.locator("[data-option=steps] input").fill("12")
        if not count:
            walk.look("13-prompt")
        page.get_by_role("button", name="Make", exact=True).click()
        expect(page.locator("[data-sample]")).to_have_count(2 * count + 2, timeout=PATIENCE)
    page.wait_for_timeout(800)
    walk.look("14-made")


def compare(walk: Walk) -> None:
    """The two in step, blindly, and measured."""
    from playwright.sync_api import expect

    page = walk.page
    walk.panel("Sample")
    expect(page.locator("[data-sample]").first).to_be_visible()
    for mark in page.locator("[data-sample]", has_text="white swan").get_by_role("button", name="Mark").all()[:2]:
        mark.click()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.locator(".stage video")).to_have_count(2)
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Pause").click()
    walk.look("15-compare")
    page.get_by_role("button", name="Wipe").click()
    walk.look("16-wipe")
    page.get_by_role("button", name="Side by side").click()
    page.get_by_label("Second model").select_option("runs/shallow")
    page.get_by_label("First model").select_option("runs/deep")
    page.get_by_role("button", name="Begin").click()
    walk.look("17-blind")
    for _ in range(2):
        page.get_by_role("button", name="← Left").click()
        page.wait_for_timeout(300)
    expect(page.locator("[data-tally]").first).to_contain_text("95% interval")
    walk.look("18-votes", whole=True)


def looks(browser: Any, url: str, pictures: Path) -> None:
    """Every panel at both widths, light and dark."""
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page = Watched(browser, width, scheme).page
            page.goto(url)
            for panel in ("clips", "train", "sample", "compare", "models"):
                page.goto(f"{url.partition('?')[0]}#/{panel}")
                page.wait_for_timeout(2500)
                page.screenshot(path=pictures / f"look-{panel}-{width}-{scheme}.png", full_page=True)
                print(f"look-{panel}-{width}-{scheme}", flush=True)
            page.context.close()


DOCS = {
    "clips": "02-clips", "scenes": "03-scenes", "training": "08-training", "needs": "10-latents", "sample": "14-made",
    "compare": "15-compare", "curate": "06-curated", "models": "look-models-1280-light",
}  # fmt: skip
"""Picture of the documentation -> the one of the walk that it is."""
NARROW = ("clips", "train", "compare")
"""Panels that stand beside each other at 390 pixels."""


def documented(pictures: Path, out: Path) -> None:
    """Write the pictures of the documentation, of those that were taken."""
    for name, file in DOCS.items():
        if (pictures / f"{file}.png").exists():
            with Image.open(pictures / f"{file}.png") as image:
                shown = image.convert("RGB").crop((0, 0, image.width, min(image.height, 900)))
            shown.save(out / f"studio-{name}.webp", quality=70, method=6)
    narrow = [pictures / f"look-{name}-390-dark.png" for name in NARROW]
    if all(path.exists() for path in narrow):
        sheet = Image.new("RGB", (3 * 390 + 2 * 20, 844), (90, 96, 110))
        for k, path in enumerate(narrow):
            with Image.open(path) as image:
                sheet.paste(image.convert("RGB").crop((0, 0, 390, 844)), (410 * k, 0))
        sheet.save(out / "studio-narrow.webp", quality=70, method=6)


PROMPT = "a yellow box and a red ball are thrown to the left"
"""Of the videos in README's picture, in the words of the toy world."""
TRIED = (1, 2, 4, 16)
"""Their numbers of steps."""


def shown(out: Path, picture: Path) -> None:
    """Sample one prompt at several numbers of steps, measure the model, and take the panel Compare with all of it."""
    from playwright.sync_api import expect

    project = Project.open(out / "toy-world")
    jobs.pause(project, False)
    values: dict[str, Any] = {"prompt": [PROMPT], "model": "world-text", "seed": 1}
    asked = [("generate", {**values, "steps": n, "out": f"samples/{n:02}-steps.mp4"}) for n in TRIED]
    measure: dict[str, Any] = {"model": "world-text", "count": 16, "steps": 16, "out": "scores/world-text.json"}
    asked.append(("evaluate world", measure))
    for command, each in asked:
        if not (project.folder / each["out"]).exists():
            jobs.add(project, command, each, f"{command} {each['out']}")
    with served(project.folder) as studio, chromium() as browser:
        page = Watched(browser).page
        page.set_viewport_size({"width": 1280, "height": 960})
        page.goto(studio.url)
        page.goto(f"{studio.url.partition('?')[0]}#/compare")
        expect(page.get_by_role("heading", name="world-text")).to_be_visible(timeout=PATIENCE)
        for n in TRIED:
            page.get_by_role("checkbox", name=f"{n:02}-steps.mp4").check()
        expect(page.locator(".stage video")).to_have_count(len(TRIED))
        page.get_by_role("button", name="Choose videos").click()
        page.get_by_role("button", name="Play", exact=True).click()
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Pause").click()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=out / "readme.png")
    with Image.open(out / "readme.png") as image:
        image.convert("RGB").save(picture, quality=70, method=6)


def main() -> None:
    """Walk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="Folder of clips.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="Words, with commas: of the clips those whose names hold one.")
    parser.add_argument("--looks", action="store_true", help="Only take every panel, of what is there.")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="Only write the pictures of the docs, into this.")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="Only make README's picture, as this.")
    parser.add_argument("--stages", default="clips,curate,train,sample,compare", help="Only these, with commas.")
    parser.add_argument("--faster", type=float, default=1.0, help="Divide the steps of the trainings by this.")
    given = parser.parse_args()
    if given.readme is not None:
        shown(given.out, given.readme)
        return
    project, pictures = given.out / "project", given.out / "pictures"
    words = [word for word in given.only.split(",") if word]
    if given.docs is not None:
        documented(pictures, given.docs)
        return
    if given.folder is None:
        parser.error("expected a folder of clips; --readme and --docs need none")
    files = sorted(p for p in given.folder.iterdir() if p.suffix in (".mp4", ".webm", ".gif"))
    files = [p for p in files if not words or any(word in p.name for word in words)]
    given.out.mkdir(parents=True, exist_ok=True)
    steps = {name: max(5, int(count / given.faster)) for name, count in STEPS.items()}
    jobs.pause(Project.open(project), False)  # an earlier call left it paused
    with served(project) as studio, chromium() as browser:
        if given.looks:
            looks(browser, studio.url, pictures)
            return
        watched = Watched(browser)
        watched.page.goto(studio.url)
        walk = Walk(watched.page, pictures, steps)
        stages = given.stages.split(",")
        if "clips" in stages and not (project / "cut").exists():
            clips(walk, files)
        if "curate" in stages:
            curated(walk)
        if "train" in stages:
            train(walk, project)
        if "sample" in stages:
            sample(walk, project)
        if "compare" in stages:
            compare(walk)
        watched.clean(studio.port)


if __name__ == "__main__":
    main()
