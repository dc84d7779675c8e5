// Finished pictures, kept in this browser: an IndexedDB store, newest first. Knows nothing of the page.

const STORE = "pictures";
const MOST = 200;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("v2flow-playground", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function inStore(mode, work) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

// entry: {blob, prompt, seed, size, settings, edited}. Returns its id.
export async function keep(entry) {
  const id = await inStore("readwrite", (store) => store.add({ ...entry, at: Date.now() }));
  const ids = await inStore("readonly", (store) => store.getAllKeys());
  for (const old of ids.slice(0, Math.max(0, ids.length - MOST))) await forget(old);
  return id;
}

export async function all() {
  return (await inStore("readonly", (store) => store.getAll())).reverse();
}

export function forget(id) {
  return inStore("readwrite", (store) => store.delete(id));
}

export function forgetAll() {
  return inStore("readwrite", (store) => store.clear());
}
