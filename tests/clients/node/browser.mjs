// Headless Chromium over its debugging pipe: enough to open a page, act on it and take a picture. No package needed.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PATIENCE = 20_000;

export class Browser {
  constructor() {
    this.profile = mkdtempSync(join(tmpdir(), 'lockgate-page-'));
    this.process = spawn(process.env.CHROMIUM ?? 'chromium', [
      '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe',
      '--no-first-run', '--disable-extensions', '--disable-background-networking', '--hide-scrollbars', '--font-render-hinting=none',
      `--user-data-dir=${this.profile}`, 'about:blank',
    ], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    this.number = 0;
    this.open = new Map();
    this.heard = [];
    let rest = '';
    this.process.stdio[4].setEncoding('utf8').on('data', (text) => {
      const parts = (rest + text).split('\0');
      rest = parts.pop();
      parts.forEach((part) => this.told(JSON.parse(part)));
    });
    this.process.on('error', (error) => { throw error; });
  }

  told(message) {
    if (message.id === undefined) return void this.heard.forEach((hear) => hear(message));
    const { resolve, reject } = this.open.get(message.id);
    this.open.delete(message.id);
    if (message.error) reject(new Error(JSON.stringify(message.error)));
    else resolve(message.result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = ++this.number;
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.open.set(id, { resolve, reject }));
  }

  async page(url, { width = 1440, height = 960, dark = false, phone = false } = {}) {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId);
    this.heard.push((message) => message.sessionId === sessionId && page.told(message));
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await page.send(`${domain}.enable`);
    await page.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: phone });
    await page.dark(dark);
    await page.send('Page.navigate', { url });
    return page;
  }

  async close() {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.send('Browser.close').catch(() => {});
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 5000))]);
    this.process.kill('SIGKILL');
    // Helpers of the browser may still write.
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

class Page {
  constructor(browser, sessionId) {
    Object.assign(this, { browser, sessionId, complaints: [], requests: [], dialogs: [] });
  }

  /** What the page should never say: errors, and what its security policy stops. */
  told({ method, params }) {
    if (method === 'Runtime.exceptionThrown') this.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Log.entryAdded' && params.entry.level === 'error' && params.entry.source !== 'network') this.complaints.push(params.entry.text);
    if (method === 'Network.requestWillBeSent') this.requests.push(params.request.url);
    if (method === 'Page.javascriptDialogOpening') this.dialogs.push(params.message);
  }

  send(method, params) { return this.browser.send(method, params, this.sessionId); }

  dark(dark) {
    return this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
  }

  /** What the expression comes to in the page. */
  async run(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until the expression is true; resolves to how long that took, in ms. */
  async until(what, expression, patience = PATIENCE) {
    const began = performance.now();
    while (!(await this.run(expression).catch(() => false))) {
      if (performance.now() - began > patience) throw new Error(`this never came to be: ${what}; the page says\n${await this.run('document.body.innerText')}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return performance.now() - began;
  }

  click(selector) { return this.run(`document.querySelector(${JSON.stringify(selector)}).click()`); }

  async type(selector, text) {
    await this.run(`{ const input = document.querySelector(${JSON.stringify(selector)}); input.focus(); input.select?.(); }`);
    if (text) await this.send('Input.insertText', { text });
    else await this.run(`{ const input = document.querySelector(${JSON.stringify(selector)}); input.value = ''; input.dispatchEvent(new Event('input')); }`);
  }

  async press(key) {
    const code = { Enter: 13, ArrowDown: 40, ArrowUp: 38, End: 35, Home: 36, Escape: 27, Tab: 9 }[key];
    const text = key === 'Enter' ? '\r' : key.length === 1 ? key : undefined;
    for (const type of ['keyDown', 'keyUp']) {
      await this.send('Input.dispatchKeyEvent', { type, key, code: key, windowsVirtualKeyCode: code, text: type === 'keyDown' ? text : undefined });
    }
  }

  async picture(file, format = 'webp', quality = 70) {
    const { data } = await this.send('Page.captureScreenshot', { format, quality: format === 'png' ? undefined : quality });
    writeFileSync(file, Buffer.from(data, 'base64'));
  }
}
