"Write nbs/badges/*.svg, the badges of the README, from settings.ini and setup.py: `python tools/badges.py`. They are files of this repository, so that no page has to ask another host for them."
import html, re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).parents[1]
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

def badge(label, value, colour):
    "An SVG: `label` on grey, `value` on `colour`"
    a, b = (round(6.4 * len(o)) + 14 for o in (label, value))
    label, value = html.escape(label), html.escape(value)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="20" role="img" aria-label="{label}: {value}"><title>{label}: {value}</title>'
        f'<clipPath id="r"><rect width="{a + b}" height="20" rx="3"/></clipPath><g clip-path="url(#r)"><rect width="{a}" height="20" fill="#444d56"/><rect x="{a}" width="{b}" height="20" fill="{colour}"/></g>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"><text x="{a / 2}" y="14">{label}</text><text x="{a + b / 2}" y="14">{value}</text></g></svg>\n')

def badges():
    "Name: SVG"
    pythons = [o for o in re.findall(r"'(3\.\d+)'", re.search(r'^pythons = .*', (root/'setup.py').read_text(), re.M)[0]) if int(o[2:]) >= int(cfg['min_python'][2:])]
    licence = re.search(rf"'{cfg['license']}':'([^']+)'", (root/'setup.py').read_text())[1]
    return dict(python=badge('python', f'{pythons[0]} to {pythons[-1]}', '#14476f'), licence=badge('licence', licence, '#1a6632'), paper=badge('paper', 'arXiv:2403.17887', '#8f2d1f'), nbdev=badge('made with', 'nbdev', '#7a3e9d'))

if __name__ == '__main__':
    (root/'nbs'/'badges').mkdir(exist_ok=True)
    for name, svg in badges().items(): (root/'nbs'/'badges'/f'{name}.svg').write_text(svg, encoding='utf-8')
