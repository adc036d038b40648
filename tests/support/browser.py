"Just enough of a browser: Debian's chromium, without a window, driven over its own protocol."
import json, shutil, subprocess, tempfile, time
from pathlib import Path
from urllib.request import Request, urlopen

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--hide-scrollbars',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--remote-debugging-port=0',
         '--remote-allow-origins=*']

def find():
    "The browser's program, if there is one"
    return next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)

LOOK = (Path(__file__).parent/'look.js').read_text(encoding='utf-8')

class Browser:
    "`with Browser() as b: b.look(address)`"
    def __enter__(self):
        from websocket import create_connection
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [find(), *FLAGS, f'--user-data-dir={self.home.name}', 'about:blank']
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, end = Path(self.home.name)/'DevToolsActivePort', time.time() + 60
        while not (port.exists() and port.read_text().count('\n')):
            if self.process.poll() is not None or time.time() > end:
                self.__exit__()
                raise RuntimeError('chromium does not start')
            time.sleep(.05)
        new = f'http://127.0.0.1:{port.read_text().split()[0]}/json/new?about:blank'
        with urlopen(Request(new, method='PUT'), timeout=30) as r: tab = json.load(r)
        self.socket, self.last, self.events = create_connection(tab['webSocketDebuggerUrl'], timeout=60), 0, []
        for o in ('Page', 'Runtime', 'Log'): self.send(f'{o}.enable')
        return self

    def __exit__(self, *args):
        if hasattr(self, 'socket'): self.socket.close()
        self.process.terminate()
        try: self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.home.cleanup()

    def _next(self):
        o = json.loads(self.socket.recv())
        if 'method' in o: self.events.append(o)
        return o

    def send(self, method, **params):
        "Send a command of the protocol; returns its result"
        self.last += 1
        self.socket.send(json.dumps(dict(id=self.last, method=method, params=params)))
        while (o := self._next()).get('id') != self.last: pass
        if 'error' in o: raise RuntimeError(f'{method}: {o["error"]}')
        return o['result']

    def run(self, js):
        "The value of a JavaScript expression"
        r = self.send('Runtime.evaluate', expression=js, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in r: raise RuntimeError(r['exceptionDetails'])
        return r['result'].get('value')

    def said(self):
        "Errors and warnings on the console, and exceptions"
        for o in self.events:
            kind, p = o['method'], o['params']
            if kind == 'Runtime.consoleAPICalled' and p['type'] in ('error', 'warning', 'assert'):
                yield 'console: ' + ' '.join(str(a.get('value', a.get('description'))) for a in p['args'])
            if kind == 'Runtime.exceptionThrown': yield f'exception: {p["exceptionDetails"]["text"]}'
            if kind == 'Log.entryAdded' and p['entry']['level'] in ('error', 'warning'):
                badge = p['entry'].get('url', '').startswith('https://')  # of another host, which no test may ask
                if not badge: yield f'log: {p["entry"]["text"]}'

    def look(self, address, widths=(390, 1280), schemes=('light', 'dark')):
        "What is wrong with the page at `address`, at every width, light and dark"
        self.events.clear()
        self.send('Page.navigate', url=address)
        while not any(o['method'] == 'Page.loadEventFired' for o in self.events): self._next()
        wrong = []
        for px, name in [(px, name) for px in widths for name in schemes]:
            self.send('Emulation.setDeviceMetricsOverride', width=px, height=900, deviceScaleFactor=1, mobile=False)
            self.send('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=name)])
            wrong += [f'{px} px, {name}: {o}' for o in self.run(LOOK)]
        return [*self.said(), *wrong]
