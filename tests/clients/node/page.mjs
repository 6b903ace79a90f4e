// The page of the admin server, driven as a person would: node page.mjs PORT WHAT ADMIN [TOKEN]. Ends with "seen" when all was as it should be.

import assert from 'node:assert/strict';
import Redis from 'ioredis6';
import { Browser } from './browser.mjs';

const [port, what, admin, token] = process.argv.slice(2);
const redis = new Redis({ port: Number(port), host: '127.0.0.1' });
const browser = new Browser();

const rows = (test) => `[...document.querySelectorAll('#long .row:not([hidden])')].filter((row) => ${test})`;
const showsKey = (key) => `${rows(`row.querySelector('.key').textContent === ${JSON.stringify(key)}`)}.length === 1`;
const count = 'Number(document.getElementById("grid").getAttribute("aria-rowcount")) - 1';
const open = async (options) => {
  const page = await browser.page(`http://${admin}/`, options);
  await page.until('the page is live', 'document.getElementById("live").textContent === "live"');
  return page;
};

/** Nothing of a key or an owner has become part of the page's own text or code, and nothing was fetched from elsewhere. */
async function isSafe(page) {
  assert.deepEqual(page.complaints, []);
  assert.deepEqual(page.dialogs, []);
  assert.equal(await page.run('document.querySelectorAll("main img, main script, main iframe").length'), 0);
  assert.equal(await page.run('window.wasHere'), undefined);
  assert.deepEqual(page.requests.filter((url) => !url.startsWith(`http://${admin}/`)), []);
}

const stories = {
  /** Keys and owners that would like to be markup are text; searching, filtering, and taking a lock away with the token. */
  async hostile() {
    const hostile = [
      '<img src=x onerror="window.wasHere=1">', '"><script>window.wasHere=1</script>', "'; alert(1) //", 'javascript:alert(1)',
      '${alert(1)}', '</title><h1>gone</h1>', '../../etc/passwd', '.', 'a/b?c#d%2e', '__proto__', 'constructor',
    ];
    for (const key of hostile) await redis.call('LOCK.ACQUIRE', key, `<b>${key}</b>`, 'TTL', 600000, 'META', `<i>${key}</i>`);
    await redis.call('LOCK.ACQUIRE', Buffer.from([0x61, 0xff, 0x3c]), 'bytes', 'TTL', 600000);
    await redis.call('LOCK.ACQUIRE', 'safe\u202egnp.exe\n', 'turned', 'TTL', 600000);
    const page = await open();
    for (const key of hostile) await page.until(`'${key}' is listed`, showsKey(key));
    await page.until('bytes are spelled out', showsKey('a\\xff<'));
    await page.until('what turns text around is spelled out', showsKey('safe\\u{202e}gnp.exe\\u{a}'));
    assert.equal(await page.run(count), hostile.length + 2);
    await page.type('#search', 'onerror');
    await page.until('one is found', `${count} === 1`);
    await page.type('#search', '*proto*');
    await page.until('a glob finds one', `${count} === 1`);
    await page.type('#search', '');
    await page.type('#owner', 'turned');
    await page.until('one owner is left', `${count} === 1`);
    await page.type('#owner', '');
    const waits = redis.duplicate();
    const granted = waits.call('LOCK.ACQUIRE', hostile[0], '<u>next</u>', 'WAIT', 60000);
    await page.until('the queue is shown', 'document.getElementById("queue-list").textContent.includes("<u>next</u>")');
    await page.until('the wait is drawn', 'document.getElementById("graph-drawn").textContent.includes("<u>next</u>")');
    // By keyboard: to the search, to the list, into the lock.
    await page.run('document.activeElement.blur()');
    await page.press('/');
    await page.until('the search has the focus', 'document.activeElement.id === "search"');
    await page.type('#search', 'img src=x');
    await page.until('it is found', `${count} === 1`);
    await page.press('ArrowDown');
    await page.until('the list has the focus', 'document.activeElement.id === "scroll" && document.activeElement.hasAttribute("aria-activedescendant")');
    await page.press('Enter');
    await page.until('the lock is shown', 'document.getElementById("detail").open && document.querySelector("#detail .danger:enabled")');
    await page.until('and its queue', 'document.querySelector("#detail select") !== null');
    await page.run('{ const level = document.querySelector("#detail select"); level.value = "critical"; level.dispatchEvent(new Event("change")); }');
    await page.until('the token is asked for', 'document.getElementById("ask").open && document.querySelector("#ask input") !== null');
    await page.type('#ask input', 'wrong');
    await page.press('Enter');
    await page.until('a wrong one is of no use', 'document.getElementById("toasts").textContent.includes("admin_token")');
    assert.equal((await redis.call('LOCK.QUEUE', hostile[0]))[0][3], 'normal');
    await page.click('#detail .danger');
    await page.until('it asks again', 'document.querySelector("#ask .danger") !== null');
    await page.click('#ask .danger');
    await page.until('the token is asked for again', 'document.getElementById("ask").open && document.querySelector("#ask input") !== null');
    await page.type('#ask input', token);
    await page.press('Enter');
    assert.ok(await granted, 'the next one gets the lock');
    await page.until('the new holder is shown', 'document.querySelector("#detail .facts").textContent.includes("<u>next</u>")');
    await page.press('Escape');
    await page.until('it is closed', '!document.getElementById("detail").open');
    await isSafe(page);
    const cross = await fetch(`http://${admin}/api/locks/x`, { method: 'DELETE', headers: { origin: 'http://evil.example', authorization: `Bearer ${token}` } });
    assert.equal(cross.status, 403);
    waits.disconnect();
  },

  /** A grant and a release are seen within half a second, half of the time at least: the machine of a test may be busy. */
  async quick() {
    const page = await open();
    const took = [];
    for (let number = 0; number < 9; number++) {
      const key = `quick:${number}`;
      await redis.call('LOCK.ACQUIRE', key, 'ann', 'TTL', 60000);
      took.push(await page.until('the grant is seen', showsKey(key)));
      await redis.call('LOCK.RELEASE', key, 'ann');
      took.push(await page.until('the release is seen', `!(${showsKey(key)})`));
    }
    took.sort((a, b) => a - b);
    console.log(`seen after ${took.map(Math.round).join(' ')} ms`);
    assert.ok(took[9] < 500, `half of them took longer than ${took[9]} ms`);
    await isSafe(page);
  },

  /** Ten thousand locks: all of them are listed, few rows exist, and typing or scrolling never holds up the page for long. */
  async many() {
    const pipeline = redis.pipeline();
    for (let number = 0; number < 10_000; number++) pipeline.call('LOCK.ACQUIRE', `stock:${String(number).padStart(5, '0')}`, `app-${number % 37}`, 'TTL', 600000);
    await pipeline.exec();
    const page = await open();
    await page.until('all are listed', `${count} === 10000`, 60_000);
    assert.ok((await page.run('document.querySelectorAll("#long .row").length')) < 60);
    const frames = await page.run(`(async () => {
      const scroll = document.getElementById('scroll'), search = document.getElementById('search'), gaps = [];
      let last = performance.now();
      const frame = () => new Promise((resolve) => requestAnimationFrame((now) => { gaps.push(now - last); last = now; resolve(); }));
      await frame(); gaps.length = 0;
      for (let step = 0; step < 60; step++) { scroll.scrollTop = (step * 37 % 60) / 60 * scroll.scrollHeight; await frame(); }
      for (const text of ['s', 'st', 'stock:1', 'stock:12', '*9', '']) { search.value = text; search.dispatchEvent(new Event('input')); await frame(); await frame(); }
      return gaps.sort((a, b) => a - b);
    })()`);
    const at = (share) => Math.round(frames[Math.floor((frames.length - 1) * share)]);
    console.log(`frames: half within ${at(0.5)} ms, 95 of 100 within ${at(0.95)} ms, the longest ${at(1)} ms`);
    assert.ok(at(0.5) < 50, 'it stutters');
    await page.type('#search', 'stock:09999');
    await page.until('the one is found', `${count} === 1`);
    await page.type('#search', '');
    await page.type('#owner', 'app-36');
    await page.until('those of one owner', `${count} === 270`);
    await isSafe(page);
  },
};

try {
  await stories[what]();
  console.log('seen');
} finally {
  redis.disconnect();
  await browser.close();
}
process.exit(0);
