"""The studio: one page for clips, training, sampling and comparing, over a folder that holds all of it.

    project.py                     what lies where in a project's folder
    commands.py                    commands as forms: their options, and the words that values make
    jobs.py work.py runner.py      jobs are processes, their folders are the truth; what runs them when the page is gone
    helper.py asks.py              a process for what reads people's files, and what it can be asked
    safety.py                      who may ask what
    app.py api/                    the server: JSON over HTTP, and one stream of what changed
    static/                        the page, built from studio/ at the top of the repository

The server holds no state of its own: what it says it reads from the folder, and what is asked of it becomes a file
there or a command that runs as a process. It opens no video and loads no model; the helper and the jobs do.
"""
