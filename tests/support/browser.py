"Just enough of a browser: Debian's chromium, without a window, driven over its own protocol."
import json, os, re, shutil, subprocess, tempfile, time
from pathlib import Path
from urllib.request import Request, urlopen

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars', '--remote-debugging-port=0', '--remote-allow-origins=*']

def find(): return next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)

# What is wrong with the page as it stands: too wide, images that do not decode, text that cannot be told from what is behind it (WCAG AA)
LOOK = r"""(async () => {
  const wrong = [], name = e => e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + (e.classList.length ? '.' + [...e.classList].join('.') : '')
  for (const d of document.querySelectorAll('details')) d.open = true
  for (const i of document.images) await i.decode().catch(() => wrong.push(`image ${name(i)} (${i.alt.slice(0, 40)}) does not decode`))
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth > width) {
    const out = [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > width + 1 && !inside(e)).slice(0, 3)
    wrong.push(`scrolls sideways: ${document.documentElement.scrollWidth} of ${width} px, ${out.map(name)}`)
  }
  function inside(e) { for (e = e.parentElement; e && e !== document.body; e = e.parentElement) if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)) return true; return false }
  const ctx = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true}), seen = new Map()
  const rgba = c => { if (!seen.has(c)) { ctx.clearRect(0, 0, 1, 1); ctx.fillStyle = c; ctx.fillRect(0, 0, 1, 1); const d = ctx.getImageData(0, 0, 1, 1).data; seen.set(c, [d[0], d[1], d[2], d[3] / 255]) } return seen.get(c) }
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1)
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
  const dark = matchMedia('(prefers-color-scheme: dark)').matches && getComputedStyle(document.documentElement).colorScheme.includes('dark')
  const behind = e => { const s = []; for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3]) s.push(c); if (c[3] === 1) break } return s.reduceRight((b, c) => over(c, b), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]) }
  const told = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  let n = 0
  for (let t; t = walk.nextNode();) {
    const e = t.parentElement, s = getComputedStyle(e)
    if (!t.data.trim() || ['SCRIPT', 'STYLE'].includes(e.tagName) || !e.getClientRects().length || s.visibility !== 'visible') continue
    n++
    let fade = 1, filter = false
    for (let p = e; p; p = p.parentElement) { const o = getComputedStyle(p); fade *= o.opacity; filter ||= o.filter !== 'none' }
    const back = behind(e), c = rgba(s.color), front = over([c[0], c[1], c[2], c[3] * fade], back), [hi, lo] = [light(front.slice(0, 3)), light(back.slice(0, 3))].sort((a, b) => b - a)
    const ratio = (hi + .05) / (lo + .05), size = parseFloat(s.fontSize), need = size >= 24 || size >= 18.66 && s.fontWeight >= 600 ? 3 : 4.5
    const what = `${name(e)} in ${name(e.parentElement)}`
    if ((ratio < need || filter) && !told.has(what)) { told.add(what); wrong.push(filter ? `${what} is filtered` : `${what} has a contrast of ${ratio.toFixed(2)}, needs ${need}: ${t.data.trim().slice(0, 30)}`) }
  }
  if (!n) wrong.push('no text at all')
  return wrong
})()"""

class Browser:
    "`with Browser() as b: b.look(address)`"
    def __enter__(self):
        from websocket import create_connection
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen([find(), *FLAGS, f'--user-data-dir={self.home.name}', 'about:blank'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, end = Path(self.home.name)/'DevToolsActivePort', time.time() + 60
        while not (port.exists() and port.read_text().count('\n')):
            if self.process.poll() is not None or time.time() > end: self.__exit__(); raise RuntimeError('chromium does not start')
            time.sleep(.05)
        with urlopen(Request(f'http://127.0.0.1:{port.read_text().split()[0]}/json/new?about:blank', method='PUT'), timeout=30) as r: tab = json.load(r)
        self.socket, self.last, self.events = create_connection(tab['webSocketDebuggerUrl'], timeout=60), 0, []
        for o in ('Page', 'Runtime', 'Log'): self.send(f'{o}.enable')
        return self

    def __exit__(self, *args):
        if hasattr(self, 'socket'): self.socket.close()
        self.process.terminate()
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.process.kill(); self.process.wait()
        self.home.cleanup()

    def _next(self):
        o = json.loads(self.socket.recv())
        if 'method' in o: self.events.append(o)
        return o

    def send(self, method, **params):
        self.last += 1
        self.socket.send(json.dumps(dict(id=self.last, method=method, params=params)))
        while (o := self._next()).get('id') != self.last: pass
        if 'error' in o: raise RuntimeError(f'{method}: {o["error"]}')
        return o['result']

    def run(self, js):
        r = self.send('Runtime.evaluate', expression=js, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in r: raise RuntimeError(r['exceptionDetails'])
        return r['result'].get('value')

    def width(self, px): self.send('Emulation.setDeviceMetricsOverride', width=px, height=900, deviceScaleFactor=1, mobile=False)
    def scheme(self, name): self.send('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=name)])

    def open(self, address):
        self.events.clear()
        self.send('Page.navigate', url=address)
        while not any(o['method'] == 'Page.loadEventFired' for o in self.events): self._next()

    def said(self):
        "Errors and warnings on the console, and exceptions"
        for o in self.events:
            p = o['params']
            if o['method'] == 'Runtime.consoleAPICalled' and p['type'] in ('error', 'warning', 'assert'): yield f'console: {" ".join(str(a.get("value", a.get("description"))) for a in p["args"])}'
            if o['method'] == 'Runtime.exceptionThrown': yield f'exception: {p["exceptionDetails"]["text"]}'
            if o['method'] == 'Log.entryAdded' and p['entry']['level'] in ('error', 'warning'): yield f'log: {p["entry"]["text"]}'

    def look(self, address, widths=(390, 1280), schemes=('light', 'dark')):
        "What is wrong with the page at `address`, at every width, light and dark"
        self.width(widths[0]); self.scheme(schemes[0])
        self.open(address)
        wrong = []
        for px in widths:
            for s in schemes:
                self.width(px); self.scheme(s)
                wrong += [f'{px} px, {s}: {o}' for o in self.run(LOOK)]
        return [*self.said(), *wrong]

    def picture(self, path):
        "The page as it stands, whole, as PNG"
        import base64
        size = self.send('Page.getLayoutMetrics')['cssContentSize']
        Path(path).write_bytes(base64.b64decode(self.send('Page.captureScreenshot', captureBeyondViewport=True, clip=dict(x=0, y=0, width=size['width'], height=min(size['height'], 8000), scale=1))['data']))
