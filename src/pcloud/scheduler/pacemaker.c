/* Ask Pacemaker's scheduler for a transition graph: CIB text in, graph text out.
 *
 * Concurrency: the library keeps globals, so one thread of one process calls this, one input at a time. It may abort()
 * on an input; the process around it is expected to die and to be started again.
 *
 * Two generations of the library are supported. 2.1 exports the call that its own daemon makes, and its installed
 * headers hold the structure with the answer. 3.0 hides that structure, so there the public pcmk_simulate() is asked to
 * write the graph into a file in memory. */
#define _GNU_SOURCE
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <libxml/parser.h>
#include <libxml/tree.h>

#include <crm/crm.h>
#include <crm/common/iso8601.h>
#include <crm/common/logging.h>
#include <crm/common/xml.h>
#include <crm/pengine/status.h>
#if __has_include(<crm/common/schemas.h>)
#define PACEMAKER_3 1
#include <crm/common/results.h>
#include <pacemaker.h>
#else
#define PACEMAKER_3 0
#endif

/* Results of pcloud_schedule(). */
#define ANSWERED 0
#define REFUSED 1

/* Options of pcloud_schedule(). */
#define SANITIZED 1 /* the CIB had its secrets removed: the digests in its history are compared without them */
#define BRIEF 2     /* triggers name only the id of the action they wait for; the rest stands where that action does */

/* Bytes of an input after which memory is given back. */
#define LARGE (256 * 1024)

#if !PACEMAKER_3
/* Exported by the library, but declared only in headers that are not installed. */
typedef struct pcmk__output_s pcmk__output_t;
int pcmk__log_output_new(pcmk__output_t **out);
void pe__register_messages(pcmk__output_t *out);
void pcmk__register_lib_messages(pcmk__output_t *out);
void pcmk__schedule_actions(xmlNode *cib, unsigned long long flags, pe_working_set_t *working_set);

static pcmk__output_t *log_output = NULL;

#define FLAGS (pe_flag_no_counts | pe_flag_no_compat | pe_flag_show_utilization)
#else
static int cib_descriptor = -1, graph_descriptor = -1;
static char cib_path[64], graph_path[64];
static pcmk_injections_t no_injections;

/* 3.0.0 has the old names, later ones the new. */
pcmk_scheduler_t *pcmk_new_scheduler(void) __attribute__((weak));
void pcmk_free_scheduler(pcmk_scheduler_t *scheduler) __attribute__((weak));
pcmk_scheduler_t *pe_new_working_set(void) __attribute__((weak));
void pe_free_working_set(pcmk_scheduler_t *scheduler) __attribute__((weak));
#endif

static void ignore_xml_errors(void *context, const char *format, ...) { (void)context; (void)format; }

/* Bind this process's life to its parent's: the kernel kills it when `parent` has gone. False when it is gone already. */
int pcloud_follow(int parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == (pid_t)parent;
}

/* Prepare the library as its daemon does, but without any log: to neither stderr, syslog nor a file. */
int pcloud_init(void)
{
    static char *argv[] = {"pcloud-scheduler", NULL};
    struct rlimit no_core = {0, 0};

    /* An abort is expected and reported by our parent; a core file for each would fill the disk. */
    setrlimit(RLIMIT_CORE, &no_core);
    crm_log_preinit(argv[0], 1, argv);
    crm_log_init(NULL, LOG_CRIT, FALSE, FALSE, 1, argv, TRUE);
    xmlSetGenericErrorFunc(NULL, ignore_xml_errors);
#if PACEMAKER_3
    cib_descriptor = memfd_create("cib", MFD_CLOEXEC);
    graph_descriptor = memfd_create("transition-graph", MFD_CLOEXEC);
    if (cib_descriptor < 0 || graph_descriptor < 0) {
        return REFUSED;
    }
    snprintf(cib_path, sizeof(cib_path), "/proc/self/fd/%d", cib_descriptor);
    snprintf(graph_path, sizeof(graph_path), "/proc/self/fd/%d", graph_descriptor);
    setenv("CIB_file", cib_path, 1); /* where pcmk_simulate() looks for its input */
#else
    if (pcmk__log_output_new(&log_output) != 0) {
        return REFUSED;
    }
    pe__register_messages(log_output);
    pcmk__register_lib_messages(log_output);
#endif
    return ANSWERED;
}

const char *pcloud_version(void) { return PACEMAKER_VERSION; }

/* Set the answer to a formatted sentence. */
static int refuse(char **answer, size_t *size, const char *reason, const char *detail, int line)
{
    int written;

    if (line > 0) {
        written = asprintf(answer, "%s: line %d: %s", reason, line, detail);
    } else {
        written = asprintf(answer, "%s%s%s", reason, detail[0] ? ": " : "", detail);
    }
    if (written < 0) {
        abort(); /* out of memory: as the library does */
    }
    while (written > 0 && (*answer)[written - 1] == '\n') {
        (*answer)[--written] = '\0';
    }
    *size = (size_t)written;
    return REFUSED;
}

static xmlNode *child(xmlNode *parent, const char *name)
{
    for (xmlNode *node = parent->children; node != NULL; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && strcmp((const char *)node->name, name) == 0) {
            return node;
        }
    }
    return NULL;
}

/* Parse a CIB, upgraded to the newest schema and with a status section; NULL with the answer set when it is refused. */
static xmlNode *read_cib(const char *text, size_t length, char **answer, size_t *size)
{
    xmlParserCtxt *parser = NULL;
    xmlDoc *document = NULL;
    xmlNode *root = NULL;

    if (memmem(text, length, "<!DOCTYPE", 9) != NULL) {
        refuse(answer, size, "the CIB has a document type declaration", "", 0);
        return NULL;
    }
    /* A parser for each input: it keeps every name it ever read. */
    parser = xmlNewParserCtxt();
    if (parser == NULL) {
        abort();
    }
    /* The encoding is given, so that no other one can hide a declaration from the search above. */
    document = xmlCtxtReadMemory(parser, text, (int)length, NULL, "UTF-8",
                                 XML_PARSE_NONET | XML_PARSE_NOBLANKS | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (document == NULL) {
        const xmlError *error = xmlCtxtGetLastError(parser);
        refuse(answer, size, "the CIB is not well-formed XML",
               error != NULL && error->message != NULL ? error->message : "", error != NULL ? error->line : 0);
        xmlFreeParserCtxt(parser);
        return NULL;
    }
    xmlFreeParserCtxt(parser);
    root = xmlDocGetRootElement(document);
    if (root == NULL || strcmp((const char *)root->name, "cib") != 0 || child(root, "configuration") == NULL) {
        xmlFreeDoc(document);
        refuse(answer, size, "the XML is not a CIB", "no <cib> with a <configuration>", 0);
        return NULL;
    }
    if (child(root, "status") == NULL) {
        xmlNewChild(root, NULL, (const xmlChar *)"status", NULL);
    }
#if !PACEMAKER_3 /* there, pcmk_simulate() does it */
    if (!cli_config_update(&root, NULL, TRUE)) {
        if (root != NULL) {
            xmlFreeDoc(root->doc);
        }
        refuse(answer, size, "the CIB does not pass Pacemaker's schema", "", 0);
        return NULL;
    }
#endif
    return root;
}

#if !PACEMAKER_3
/* Leave only the ids in a graph's triggers. */
static void shorten_triggers(xmlNode *graph)
{
    for (xmlNode *synapse = graph->children; synapse != NULL; synapse = synapse->next) {
        xmlNode *inputs = child(synapse, "inputs");

        for (xmlNode *trigger = inputs != NULL ? inputs->children : NULL; trigger != NULL; trigger = trigger->next) {
            for (xmlNode *cause = trigger->children; cause != NULL; cause = cause->next) {
                xmlAttr *next = NULL;

                for (xmlAttr *attribute = cause->properties; attribute != NULL; attribute = next) {
                    next = attribute->next;
                    if (strcmp((const char *)attribute->name, "id") != 0) {
                        xmlRemoveProp(attribute);
                    }
                }
            }
        }
    }
}

/* The `execution-date` of the CIB as the library's time; NULL (which means now) when it has none. */
static crm_time_t *execution_date(xmlNode *root)
{
    xmlChar *text = xmlGetProp(root, (const xmlChar *)"execution-date");
    crm_time_t *date = NULL;

    if (text != NULL) {
        time_t seconds = (time_t)strtoll((const char *)text, NULL, 10);
        if (seconds > 0) {
            date = crm_time_new_undefined();
            crm_time_set_timet(date, &seconds);
        }
        xmlFree(text);
    }
    return date;
}
#endif

/* Ask for the transition graph of a CIB. Sets `answer`, to be given to pcloud_free(), to the graph's XML (ANSWERED) or to
 * a sentence that says why there is none (REFUSED). `options`: see SANITIZED and BRIEF. */
int pcloud_schedule(const char *text, size_t length, int options, char **answer, size_t *size)
{
    int result = ANSWERED;
    xmlNode *root = read_cib(text, length, answer, size);

    if (root == NULL) {
        return REFUSED;
    }

#if PACEMAKER_3
    pcmk_scheduler_t *scheduler = NULL;
    xmlNode *report = NULL;
    xmlChar *upgraded = NULL;
    int upgraded_size = 0, code;
    struct stat state;

    xmlDocDumpMemory(root->doc, &upgraded, &upgraded_size);
    xmlFreeDoc(root->doc);
    if (upgraded == NULL || ftruncate(cib_descriptor, 0) != 0 || ftruncate(graph_descriptor, 0) != 0
        || pwrite(cib_descriptor, upgraded, (size_t)upgraded_size, 0) != upgraded_size) {
        abort();
    }
    xmlFree(upgraded);
    scheduler = pcmk_new_scheduler != NULL ? pcmk_new_scheduler() : pe_new_working_set();
    if (scheduler == NULL) {
        abort();
    }
    code = pcmk_simulate(&report, scheduler, &no_injections,
                         pcmk_sim_process | ((options & SANITIZED) ? pcmk_sim_sanitized : 0), 0, NULL, NULL, graph_path, NULL);
    (pcmk_free_scheduler != NULL ? pcmk_free_scheduler : pe_free_working_set)(scheduler);
    if (report != NULL) {
        xmlFreeDoc(report->doc);
    }
    if (code != pcmk_rc_ok) {
        return refuse(answer, size, "the scheduler refused the CIB", pcmk_rc_str(code), 0);
    }
    if (fstat(graph_descriptor, &state) != 0 || state.st_size == 0) {
        return refuse(answer, size, "the scheduler made no transition graph", "", 0);
    }
    *answer = malloc((size_t)state.st_size);
    *size = (size_t)state.st_size;
    if (*answer == NULL || pread(graph_descriptor, *answer, *size, 0) != state.st_size) {
        abort();
    }
#else
    pe_working_set_t *working_set = pe_new_working_set();

    if (working_set == NULL) {
        abort();
    }
    /* The status comes first: the call that schedules would set everything to its defaults, the date included. */
    working_set->priv = log_output;
    working_set->input = root;
    working_set->now = execution_date(root);
    working_set->flags |= FLAGS | ((options & SANITIZED) ? pe_flag_sanitized : 0);
    cluster_status(working_set);
    pcmk__schedule_actions(root, FLAGS, working_set);
    if (working_set->graph == NULL) {
        result = refuse(answer, size, "the scheduler made no transition graph", "", 0);
    } else {
        if (options & BRIEF) {
            shorten_triggers(working_set->graph);
        }
        xmlBuffer *buffer = xmlBufferCreateSize(16384);
        xmlBufferSetAllocationScheme(buffer, XML_BUFFER_ALLOC_DOUBLEIT);
        xmlNodeDump(buffer, working_set->graph->doc, working_set->graph, 0, 0);
        *size = (size_t)xmlBufferLength(buffer);
        *answer = (char *)xmlBufferDetach(buffer);
        xmlBufferFree(buffer);
    }
    pe_free_working_set(working_set); /* frees the input and the graph, too */
#endif
    if (length > LARGE) {
        malloc_trim(0); /* a rare large input must not keep its memory for ever */
    }
    return result;
}

void pcloud_free(char *answer) { free(answer); }
