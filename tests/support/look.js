// What is wrong with the page as it stands: too wide, images that do not decode,
// text that cannot be told from its background (WCAG AA)
(async () => {
  const wrong = [], name = e => e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + (e.classList.length ? '.' + [...e.classList].join('.') : '')
  for (const d of document.querySelectorAll('details')) d.open = true
  // badges come from other hosts, which no test may ask
  for (const i of [...document.images].filter(o => !o.src.startsWith('https://'))) await i.decode().catch(() => wrong.push(`image ${name(i)} (${i.alt.slice(0, 40)}) does not decode`))
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
})()
