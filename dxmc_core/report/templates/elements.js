"use strict";

// Elements of the page, found and made.

/**
 * The first element below `root` that the selector finds, which is there and of this kind.
 * @template {Element} [E=HTMLElement]
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => E} [kind]
 */
function one(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!isOfKind(found, kind)) throw new TypeError(`expected ${kind?.name ?? "an element"} at ${selector}, found ${found}`);
  return found;
}

/**
 * All elements of this kind below `root` that the selector finds.
 * @template {Element} [E=HTMLElement]
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => E} [kind]
 */
function all(root, selector, kind) {
  return [...root.querySelectorAll(selector)].filter((found) => isOfKind(found, kind));
}

/**
 * Where an event happened: the nearest element of this kind, the target itself or around it, that the selector finds, or null.
 * @template {Element} [E=HTMLElement]
 * @param {Event} event
 * @param {string} selector
 * @param {new () => E} [kind]
 */
function around(event, selector, kind) {
  const found = event.target instanceof Element ? event.target.closest(selector) : null;
  return isOfKind(found, kind) ? found : null;
}

/**
 * @template {Element} [E=HTMLElement]
 * @param {Element | null} found
 * @param {new () => E} [kind]
 * @returns {found is E}
 */
function isOfKind(found, kind) {
  return found instanceof (kind ?? HTMLElement);
}

/**
 * A new element with attributes and children; text is inserted as text.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} children
 */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
