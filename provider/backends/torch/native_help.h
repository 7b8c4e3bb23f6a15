/* A second thread for a pass that is the only one under way: it takes parts of each linear layer from the end, while the
 * pass takes them from the start. Neither waits for the other: what the helper has not finished in time, for instance
 * because another process has its core, the pass computes as well. Therefore the helper writes to memory of its own, and
 * a pass is freed when both have left it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct { const Linear *layer; const float *x; size rows; } Product;
/* Compute part `part` of the product into its rows and columns of `out` (rows, outputs); or copy them. */
static void compute_part(const Product *product, size part, float *out);
static void copy_part(const Product *product, size part, const float *from, float *out);

/* Claims are the number of a product, the first part that nobody has taken, and the end of those. */
enum { BITS = 12, MOST_PARTS = (1 << BITS) - 1 };
/* So often the helper looks for a part before it sleeps. */
enum { LOOKS = 1 << 13 };

typedef struct Pass {
    struct Pass *next; /* among those that the helper was the last to leave */
    atomic_int holders;
    atomic_bool is_over;
    _Atomic uint64_t claims;
    Product product;
    uint64_t number;                       /* of the product, from 1 */
    _Atomic uint64_t finished[MOST_PARTS]; /* the last product of which the helper has finished this part */
    float *helped;                         /* what the helper has computed, (rows, outputs) */
    float *states;                         /* of the pass */
} Pass;

static uint64_t claims_of(uint64_t number, size first, size end) { return number << 2 * BITS | first << BITS | end; }

static atomic_int passes; /* under way in this process */
static struct {
    pthread_once_t once;
    pthread_mutex_t mutex;
    pthread_cond_t is_needed;
    Pass *pass; /* that waits for the helper; guarded by the mutex */
    atomic_bool is_free, is_working;
    _Atomic(Pass *) left; /* passes that it was the last to leave */
} helper = {.once = PTHREAD_ONCE_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER, .is_needed = PTHREAD_COND_INITIALIZER};

/* Take a part, the first or the last, of `product`, which is told: its number; 0 where none is left. */
static uint64_t take(Pass *pass, bool last, Product *product, size *part)
{
    uint64_t claims = atomic_load(&pass->claims), then;
    do {
        size first = claims >> BITS & MOST_PARTS, end = claims & MOST_PARTS;
        if (first == end) return 0;
        /* Another product may be begun meanwhile; the exchange fails then. */
        *product = pass->product;
        *part = last ? end - 1 : first;
        then = claims_of(claims >> 2 * BITS, first + !last, end - last);
    } while (!atomic_compare_exchange_weak(&pass->claims, &claims, then));
    return claims >> 2 * BITS;
}

static bool leave(Pass *pass) { return atomic_fetch_sub(&pass->holders, 1) == 1; }

static void dispose(Pass *pass)
{
    free(pass->states);
    free(pass);
}

/* Take part until the pass is over, another one has begun, or nothing comes for a while. */
static void help(Pass *pass)
{
    Product product;
    size part;
    for (int looks = 0; looks < LOOKS && !atomic_load(&pass->is_over) && atomic_load(&passes) == 1; looks++) {
        atomic_store(&helper.is_working, true);
        uint64_t number = take(pass, true, &product, &part);
        if (number) {
            compute_part(&product, part, pass->helped);
            atomic_store(&pass->finished[part], number);
            looks = 0;
        }
        atomic_store(&helper.is_working, false);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static void *run_helper(void *unused)
{
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "pass helper");
    /* Only cores that nobody else wants, least of all the pass. */
    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
#endif
    for (;;) {
        pthread_mutex_lock(&helper.mutex);
        while (!helper.pass) {
            atomic_store(&helper.is_free, true);
            pthread_cond_wait(&helper.is_needed, &helper.mutex);
        }
        Pass *pass = helper.pass;
        helper.pass = NULL;
        pthread_mutex_unlock(&helper.mutex);
        help(pass);
        /* It locks nothing that a pass may wait for, the allocator neither: it can be kept from going on for long. */
        if (leave(pass)) {
            pass->next = atomic_load(&helper.left);
            while (!atomic_compare_exchange_weak(&helper.left, &pass->next, pass)) {}
        }
    }
    return unused;
}

/* A forked process has no helper. */
static void forget_helper(void)
{
    atomic_store(&helper.is_free, false);
    atomic_store(&helper.is_working, false);
}

static void start_helper(void)
{
    pthread_t thread;
    pthread_atfork(NULL, NULL, forget_helper);
    if (!pthread_create(&thread, NULL, run_helper, NULL)) pthread_detach(thread);
}

/* A pass that may be helped, which frees `states` in the end; NULL: there is no memory for one. */
static Pass *enter(float *states, float *helped)
{
    pthread_once(&helper.once, start_helper);
    for (Pass *left = atomic_exchange(&helper.left, NULL), *next; left; left = next) {
        next = left->next;
        dispose(left);
    }
    Pass *pass = calloc(1, sizeof *pass);
    if (!pass) return NULL;
    pass->states = states, pass->helped = helped;
    atomic_store(&pass->holders, 1);
    return pass;
}

static void finish(Pass *pass)
{
    atomic_store(&pass->is_over, true);
    if (leave(pass)) dispose(pass);
}

/* Ask the helper to take part, if it has nothing else to do. */
static void ask(Pass *pass)
{
    bool is_free = true;
    if (atomic_load(&passes) > 1 || !atomic_compare_exchange_strong(&helper.is_free, &is_free, false)) return;
    if (pthread_mutex_trylock(&helper.mutex)) {
        atomic_store(&helper.is_free, true);
        return;
    }
    atomic_fetch_add(&pass->holders, 1);
    helper.pass = pass;
    pthread_cond_signal(&helper.is_needed);
    pthread_mutex_unlock(&helper.mutex);
}

/* Compute all parts of a product into `out`, with the helper. */
static void share(Pass *pass, Product product, size parts, float *out)
{
    size part, next = 0;
    pass->product = product;
    atomic_store(&pass->claims, claims_of(++pass->number, 0, parts));
    ask(pass);
    while (take(pass, false, &product, &part)) {
        compute_part(&product, part, out);
        next = part + 1;
    }
    /* The others were taken by the helper, from the end on. */
    for (part = parts; part-- > next;) {
        if (atomic_load(&pass->finished[part]) == pass->number) copy_part(&product, part, pass->helped, out);
        else compute_part(&product, part, out);
    }
}

/* Return when the helper reads no weights of passes that are over. */
void settle(void)
{
    while (atomic_load(&helper.is_working)) sched_yield();
}
