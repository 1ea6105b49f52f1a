"""The admin page as people see it, in a real Chromium, for tests/page, which installs what this needs. One line for each check.

    page.py --sidekey target/debug/sidekey [--shots FOLDER] [NAME…]

Nothing is judged by time: what has to appear is waited for.
"""
import argparse, os, pathlib, re, sys, traceback
from urllib.parse import quote, urlsplit

import axe_playwright_python
from playwright.sync_api import expect, sync_playwright

from page_stage import HOSTILE, Stage

AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
CHECKS = []
VIEWS = ["/", "/rotation", "/handshakes", "/handshakes?failed=true", "/registry", "/registry/peers", "/registry/trust", "/registry/history",
         "/registry/failures", "/findings", "/keyrings/api", "/keyrings/ledger"]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# Characters that hide or turn others: none may be in a document.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\u061c]")


def check(function):
    CHECKS.append(function)
    return function


def same(got, wanted):
    if got != wanted:
        raise AssertionError(f"{str(got)[:600]!r} instead of {str(wanted)[:600]!r}")


class Visit:
    """A browser context of its own, and what went wrong in it: messages, requests to elsewhere, violations of the policy."""

    def __init__(self, browser, stage, **options):
        self.stage, self.faults = stage, []
        self.context = browser.new_context(base_url=stage.base, viewport=options.pop("viewport", WIDE), **options)
        self.context.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))")
        self.page = self.context.new_page()
        self.page.on("console", lambda one: one.type in ("error", "warning") and self.faults.append(f"console: {one.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.see(request))
        self.page.on("requestfailed", lambda one: one.failure != "net::ERR_ABORTED" and self.faults.append(f"failed: {one.url} {one.failure}"))

    def see(self, request):
        if urlsplit(request.url).netloc != urlsplit(self.stage.base).netloc:
            self.faults.append(f"outside request: {request.url}")

    def open(self, path, status=200):
        answer = self.page.goto(path)
        same(answer.status, status)
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            same(self.faults, [])


class Tour:
    def __init__(self, browser, stage):
        self.browser, self.stage = browser, stage

    def visit(self, **options):
        return Visit(self.browser, self.stage, **options)

    def all_views(self):
        """The views of the list, and one of each that is about a single thing."""
        html = self.stage.ask("/handshakes?failed=true")[2] + self.stage.ask("/registry/peers")[2] + self.stage.ask("/keyrings/api")[2]
        single = [re.search(rf'href="({kind}[^"?]+)"', html).group(1) for kind in ("/handshakes/", "/peers/", "/certificates/")]
        return VIEWS + single


# ---------------------------------------------------------------- loading

@check
def every_view_loads_without_javascript(tour):
    with tour.visit(java_script_enabled=False) as visit:
        for view in tour.all_views():
            page = visit.open(view)
            same((view, page.locator("main h1").count(), page.locator("header nav a").count()), (view, 1, 5))


@check
def every_view_loads_with_javascript_and_nothing_is_refused_or_asked_elsewhere(tour):
    with tour.visit() as visit:
        for view in tour.all_views():
            page = visit.open(view)
            same((view, page.locator("main h1").count()), (view, 1))


@check
def the_policy_is_strict_and_the_document_holds_no_inline_code(tour):
    status, fields, html = tour.stage.ask("/")
    policy = fields["content-security-policy"]
    same([word for word in ("unsafe", "http:", "https:", "*") if word in policy], [])
    for wanted in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        same((wanted, wanted in policy), (wanted, True))
    same(re.findall(r"<style|\sstyle=|\son[a-z]+=\"|<script(?! src=\"/assets/)", html), [])


# ---------------------------------------------------------------- what an operator looks for

@check
def the_overview_says_what_to_act_on_first(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/")
        expect(page.locator(".act h2")).to_contain_text("Act on this")
        expect(page.locator(".act > .do")).to_contain_text("Do")
        # Nothing stands above it but the head of the page.
        first = page.locator("main > :not(.unseen)").first
        same(first.locator(".act").count(), 1)


@check
def the_timeline_shows_every_pair_of_every_keyring_with_overlap_and_now(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/")
        for name, lanes in {"api": 2, "billing": 1, "ledger": 2, "salesforce": 2}.items():
            keyring = page.locator(f".timeline section[aria-label='Keyring {name}']")
            same((name, keyring.locator(".lane").count()), (name, lanes))
            same((name, keyring.locator("line.now").count()), (name, lanes))
        api = page.locator(".timeline section[aria-label='Keyring api']")
        same(api.locator("rect.overlap").count(), 1)
        old, new = (api.locator(f"rect.is-{standing}").bounding_box() for standing in ("previous", "current"))
        now = api.locator("line.now").first.bounding_box()["x"]
        # The new pair began half a day ago, which is less than a pixel here.
        edges = [old["x"], new["x"], now + 2, old["x"] + old["width"], new["x"] + new["width"]]
        same(edges, sorted(edges))


@check
def the_rotation_report_shows_verdict_evidence_by_sender_who_is_awaited_and_what_it_cannot_know(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/rotation")
        report = page.locator("section[aria-label='Rotation of api']")
        expect(report.locator(".card-head .label")).to_have_text(re.compile("blocked|wait"))
        legacy = report.locator("tr", has=page.locator("th a", has_text="legacy.partner.example"))
        expect(legacy).to_contain_text("insists on old")
        evidence = report.locator("tr.evidence", has_text="Senders of dns:legacy.partner.example")
        evidence.locator("summary").click()
        expect(evidence.locator("tbody tr")).to_contain_text("127.0.0.4")
        etl = report.locator("tr", has=page.locator("th a", has_text="etl.acme.example"))
        expect(etl).to_contain_text("proved new")
        expect(etl).to_contain_text("noc@acme.example")
        batch = report.locator("tr", has=page.locator("th a", has_text="batch.partner.example"))
        expect(batch).to_contain_text("not seen since")
        expect(batch).to_contain_text("until")
        expect(report.locator("h3")).to_have_text("What this report cannot know")
        expect(report.locator(".plain li").first).to_be_visible()


@check
def a_page_shows_the_command_where_something_can_be_done(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/keyrings/ledger")
        expect(page.locator(".command", has_text=re.compile(r"^sidekey keyring promote ledger [0-9a-f]{12}$"))).to_be_visible()
        same(page.locator("form[method=post], button:not([type=submit])").count(), 0)


@check
def a_keyring_has_its_history(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/keyrings/api")
        expect(page.locator("section[aria-labelledby=history] tbody tr").first).to_be_visible()
        expect(page.locator(".lead")).to_have_text("Orders API, <b>mTLS</b> for partners")


@check
def a_peer_and_its_certificate_have_their_pages(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/registry/peers?text=etl.acme")
        page.locator("tbody th a").first.click()
        expect(page.locator("h1")).to_have_text("Peer dns:etl.acme.example")
        expect(page.locator("main")).to_contain_text("proved new")
        page.locator("section[aria-labelledby=certificates] tbody th a").first.click()
        expect(page.locator("h1")).to_contain_text("Certificate")
        for field in ("subject", "issuer", "serial", "names", "valid from", "ends", "key", "usage", "signature", "fingerprint", "pin"):
            same((field, page.locator("dl.facts dt", has_text=re.compile(f"^{field}$")).count()), (field, 1))
        expect(page.locator("pre")).to_contain_text("BEGIN CERTIFICATE")


# ---------------------------------------------------------------- tables and filters

@check
def the_registry_sorts_and_filters_by_links_alone(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/registry")
        subjects = lambda: page.locator("tbody tr td:nth-child(6)").all_inner_texts()
        page.get_by_role("link", name="Valid from").click()
        up = subjects()
        same(up, sorted(up))
        expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Valid from")
        page.get_by_role("link", name="Valid from").click()
        same(subjects(), up[::-1])
        expect(page.locator("th[aria-sort=descending]")).to_contain_text("Valid from")
        page.get_by_label("Contains").fill("billing")
        page.get_by_role("button", name="Show").click()
        same({row.split()[0] for row in page.locator("tbody th").all_inner_texts()}, {"billing"})
        page.get_by_role("link", name="Clear").click()
        page.get_by_label("Standing").select_option("previous")
        page.get_by_role("button", name="Show").click()
        same({row.split()[0] for row in page.locator("tbody th").all_inner_texts()}, {"api", "salesforce"})


@check
def peers_are_sorted_and_filtered_by_links_and_forms_alone(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/registry/peers")
        names = lambda: [name for name in page.locator("tbody th a").all_inner_texts() if name.startswith("dns:")]
        page.get_by_role("link", name="Identity").click()
        up = names()
        same((len(up) > 2, up), (True, sorted(up)))
        page.get_by_role("link", name="Identity").click()
        same(names(), up[::-1])
        page.get_by_label("Side").select_option("egress")
        page.get_by_role("button", name="Show").click()
        same({text.split()[0] for text in page.locator("tbody td:nth-child(3)").all_inner_texts()}, {"egress"})
        # The order is kept.
        expect(page.locator("th[aria-sort=descending]")).to_contain_text("Identity")


@check
def trust_anchors_and_lists_show_what_uses_them_and_when_they_last_matched(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/registry")
        page.get_by_role("link", name="Trust anchors and CRLs").click()
        anchors = page.get_by_role("region", name="Anchors and pins")
        partners = anchors.locator("tbody tr", has_text="partners")
        for text in ("Old CA 2024", "accepted", "ingress api"):
            expect(partners).to_contain_text(text)
        expect(anchors.locator("tbody tr", has_text="upstreams")).to_contain_text("egress salesforce")
        tour.stage.wait_for_text("/registry/trust?trust=partners&sort=last_matched", "ago</time></td><td><bdi>ingress api")
        crl = page.get_by_role("region", name="Revocation lists").locator("tbody tr")
        same(crl.count(), 1)
        for text in ("partners", "Old CA 2024", "in use", "ingress api"):
            expect(crl).to_contain_text(text)
        expect(crl.locator("td.number")).to_have_text("2")
        page.get_by_label("Standing").select_option("removed")
        page.get_by_role("button", name="Show").click()
        expect(page.locator(".pager")).to_contain_text("Nothing passes this filter.")
        page.get_by_role("link", name="Clear").click()
        page.get_by_role("link", name="Ends").click()
        expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Ends")
        anchors.locator("tbody td a").first.click()
        expect(page.locator("main")).to_contain_text("anchor of trust")


@check
def handshakes_are_filtered_by_a_form_alone(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/handshakes")
        outcomes = lambda: set(page.locator(".event-head .label").all_inner_texts())
        same({"accepted", "refused"} <= outcomes(), True)
        page.get_by_label("failed only").check()
        page.get_by_role("button", name="Show").click()
        same("accepted" in outcomes(), False)
        for explanation in page.locator(".event-why").all_inner_texts():
            same((explanation, len(explanation) > 20), (explanation, True))
        page.get_by_role("link", name="Clear").click()
        page.get_by_label("Peer").fill("etl.acme.example")
        page.get_by_role("button", name="Show").click()
        same(set(page.locator(".event-facts a[href^='/peers/']").all_inner_texts()), {"dns:etl.acme.example"})
        page.get_by_role("link", name="Clear").click()
        page.get_by_label("Keyring").select_option("salesforce")
        page.get_by_role("button", name="Show").click()
        same({text.split()[0] for text in page.locator(".event-head span:not(.label)").all_inner_texts()}, {"egress"})


@check
def a_handshake_has_all_its_fields_and_the_certificates_that_were_sent(tour):
    with tour.visit(java_script_enabled=False) as visit:
        page = visit.open("/handshakes?failed=true&peer=stranger.example")
        page.locator(".event a.number").first.click()
        for field in ("side", "listener", "outcome", "reason", "peer.subject", "peer.issuer", "peer.serial", "epoch", "duration_us"):
            same((field, page.locator("dl.facts dt", has_text=re.compile(f"^{re.escape(field)}$")).count()), (field, 1))
        expect(page.locator("pre").first).to_contain_text("BEGIN CERTIFICATE")


# ---------------------------------------------------------------- live

@check
def a_new_handshake_appears_by_itself_and_only_where_the_filter_lets_it(tour):
    with tour.visit() as visit, tour.visit() as failed:
        page, others = visit.open("/handshakes"), failed.open("/handshakes?failed=true")
        before = page.locator(".event .number").first.inner_text()
        last_failed = others.locator(".event .number").first.inner_text()
        tour.stage.come(tour.stage.peers["etl"], requests=1)
        expect(page.locator(".event .number").first).not_to_have_text(before)
        expect(page.locator(".event .label").first).to_have_text("accepted")
        # One that fails shows that the other page is live too, and what did not pass is not there.
        tour.stage.come(tour.stage.peers["expired"])
        expect(others.locator(".event .number").first).not_to_have_text(last_failed)
        expect(others.locator(".event code").first).to_have_text("expired")
        same(others.locator(".event .label", has_text="accepted").count(), 0)


@check
def a_live_update_leaves_alone_what_a_reader_uses(tour):
    with tour.visit() as visit:
        page = visit.open("/")
        page.locator(".act details summary").click()
        failures = page.locator("section[aria-labelledby=failed] .event .number").first
        before = failures.inner_text()
        page.locator("h1").evaluate("one => document.activeElement.blur()")
        tour.stage.come(tour.stage.peers["expired"])
        expect(failures).not_to_have_text(before)
        expect(page.locator(".act details")).to_have_attribute("open", "")


# ---------------------------------------------------------------- harm

@check
def hostile_subjects_are_shown_and_do_nothing(tour):
    with tour.visit() as visit:
        for view in tour.all_views():
            page = visit.open(view)
            same((view, HIDDEN.findall(page.locator("html").evaluate("one => one.outerHTML"))), (view, []))
            same((view, page.evaluate("window.hacked")), (view, None))
            same((view, page.locator("img, iframe, object, embed, base, meta[http-equiv], script:not([src^='/assets/'])").count()), (view, 0))
        page = visit.open("/handshakes?failed=true")
        for text in (r"\u{202e}", "<img src=x onerror=", "<svg onload=", r"\u{1b}[2J", "LLLL"):
            expect(page.locator(".events")).to_contain_text(text)


@check
def every_hostile_peer_has_a_page_of_its_own(tour):
    with tour.visit() as visit:
        page = visit.open("/registry/peers")
        hrefs = [one.get_attribute("href") for one in page.locator("tbody th a").all()]
        hostile = [href for href in hrefs if href.startswith("/peers/subject:")]
        same(len(hostile), len(HOSTILE))
        for href in hostile:
            page = visit.open(href)
            expect(page.locator("h1")).to_contain_text("Peer ")
            same((href[:80], page.evaluate("window.hacked")), (href[:80], None))
            expect(page.locator("section[aria-labelledby=certificates] tbody tr").first).to_be_visible()


@check
def a_hostile_query_is_text(tour):
    harm = "\"><script>window.hacked=9</script>\u202e"
    with tour.visit() as visit:
        for view in (f"/handshakes?peer={quote(harm)}", f"/registry?text={quote(harm)}&sort={quote(harm)}&order={quote(harm)}&offset={quote(harm)}",
                     f"/registry/peers?text={quote(harm)}", f"/registry?offset=18446744073709551615"):
            page = visit.open(view)
            same((view, page.evaluate("window.hacked")), (view, None))
    for target in (f"/keyrings/{quote(harm)}", f"/peers/{quote(harm, safe='')}", "/certificates/x", "/handshakes/x", "/registry/x", "/assets/page.css",
                   "/keyrings/..%2f..%2fetc%2fpasswd", "/%ff", "//evil.example/", "/nothing"):
        status, fields, body = tour.stage.ask(target)
        same((target, status, "<script>window" in body, "location" in fields), (target, 404, False, False))


@check
def other_methods_and_foreign_hosts_are_refused(tour):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        for view in ("/", "/handshakes", "/keyrings/api"):
            status, fields, _ = tour.stage.ask(view, method=method)
            same((method, status, fields.get("allow")), (method, 405, "GET, HEAD"))
    same(tour.stage.ask("/", method="HEAD")[::2], (200, ""))
    for host in ("evil.example", "localhost.evil.example", f"127.0.0.1.evil.example:{tour.stage.admin}"):
        same((host, tour.stage.ask("/", host=host)[0]), (host, 421))


# ---------------------------------------------------------------- looks

@check
def both_themes_follow_the_system(tour):
    colours = {}
    for scheme in ("light", "dark"):
        with tour.visit(color_scheme=scheme) as visit:
            page = visit.open("/")
            colours[scheme] = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light, dark = (sum(map(int, re.findall(r"\d+", colours[scheme][0])[:3])) for scheme in ("light", "dark"))
    same((light > 600, dark < 150), (True, True))


@check
def no_view_is_wider_than_a_phone(tour):
    with tour.visit(viewport=NARROW, java_script_enabled=True) as visit:
        for view in tour.all_views():
            page = visit.open(view)
            width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
            same((view, width <= 360, width), (view, True, width))


@check
def axe_finds_no_serious_fault_in_either_theme(tour):
    for scheme in ("light", "dark"):
        for viewport in (WIDE, NARROW):
            with tour.visit(color_scheme=scheme, viewport=viewport) as visit:
                for view in tour.all_views():
                    page = visit.open(view)
                    page.evaluate(AXE)
                    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
                    serious = [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"][:300])
                               for one in found if one["impact"] in ("serious", "critical")]
                    same((scheme, view, serious), (scheme, view, []))


@check
def the_first_key_leads_to_the_content(tour):
    with tour.visit() as visit:
        page = visit.open("/")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        page.keyboard.press("Enter")
        same(page.evaluate("document.activeElement.id"), "main")


# ---------------------------------------------------------------- pictures and the rest

def take_pictures(tour, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for name, viewport in (("wide", WIDE), ("narrow", NARROW)):
            with tour.visit(color_scheme=scheme, viewport=viewport) as visit:
                for view in tour.all_views():
                    word = re.sub(r"\W+", "-", view).strip("-")[:24] or "overview"
                    visit.open(view).screenshot(path=folder / f"{word}-{name}-{scheme}.png", full_page=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    wanted = [one for one in CHECKS if not asked.names or any(name in one.__name__ for name in asked.names)]
    passed, stage = 0, Stage(asked.sidekey)
    try:
        stage.start()
        stage.play()
        with sync_playwright() as playwright:
            # Everything that the page may need is on loopback: no other name is looked up.
            arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
            tour = Tour(browser, stage)
            if asked.shots:
                take_pictures(tour, asked.shots)
            for one in wanted:
                name = one.__name__.replace("_", " ")
                try:
                    one(tour)
                    passed += 1
                    print(f"ok      {name}", flush=True)
                except Exception:
                    print(f"FAILED  {name}\n        " + traceback.format_exc(limit=-2).strip().replace("\n", "\n        "), flush=True)
            browser.close()
    finally:
        stage.stop()
    print(f"{passed} passed, {len(wanted) - passed} failed, 0 skipped")
    sys.exit(passed != len(wanted))


main()
